// Copying, for every staff page: `hubwire.copy(text or promise of it)`, and buttons with
// data-copy-from="#id", which copy the text of that element and say so.
"use strict";

window.hubwire = (() => {
    // Browsers offer the clipboard to https pages and localhost alone; elsewhere the old way still works.
    function copyBySelection(text) {
        const area = document.createElement("textarea");
        area.value = text;
        area.readOnly = true;
        area.style.position = "fixed";
        area.style.opacity = "0";
        document.body.append(area);
        area.select();
        const done = document.execCommand("copy");
        area.remove();
        if (!done) throw new Error("This browser does not let the page copy. Reveal the text and copy it by hand.");
    }

    async function copy(text) {
        if (!navigator.clipboard) {
            copyBySelection(await text);
            return;
        }
        if (typeof text === "string" || typeof ClipboardItem === "undefined") {
            await navigator.clipboard.writeText(await text);
            return;
        }
        // Handing over the promise keeps the click's permission alive while the text is fetched (Safari).
        const blob = text.then((value) => new Blob([value], { type: "text/plain" }));
        await Promise.all([text, navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })])]);
    }

    // Tell on the button itself, for two seconds.
    function confirmOn(button, words) {
        const before = button.dataset.label || button.textContent;
        button.dataset.label = before;
        // The words beside it shall not move when the button's own get shorter.
        button.style.minWidth = `${button.offsetWidth}px`;
        button.textContent = words;
        clearTimeout(Number(button.dataset.timer));
        button.dataset.timer = String(setTimeout(() => { button.textContent = before; }, 2000));
    }

    document.addEventListener("click", async (event) => {
        const button = event.target.closest("[data-copy-from]");
        if (!button) return;
        try {
            await copy(document.querySelector(button.dataset.copyFrom).textContent);
            confirmOn(button, "Copied");
        } catch (error) {
            confirmOn(button, error.message);
        }
    });

    return { copy, confirmOn };
})();
