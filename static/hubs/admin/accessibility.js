/* What the theme's widgets do not tell to screen readers. They are built by scripts, some of them later, so it is
   added when they appear. */
"use strict";

(() => {
    let number = 0;

    /* A list to search in is called what its label or its column says, and then what is chosen. */
    function nameCombobox(combobox) {
        const select = combobox.closest(".select2-container")?.previousElementSibling;
        const chosen = combobox.querySelector(".select2-selection__rendered");
        if (!select || combobox.hasAttribute("aria-label")) return;
        const label = select.labels?.[0]?.textContent || select.getAttribute("aria-label") || "";
        const name = label.replace("*", "").trim();
        if (!name) return;
        if (chosen) {
            chosen.id ||= `select2-chosen-${number++}`;
            // It is what the combobox shows, no field of its own.
            chosen.removeAttribute("role");
            chosen.removeAttribute("aria-readonly");
        }
        combobox.id ||= `select2-combobox-${number++}`;
        combobox.setAttribute("aria-label", name);
        combobox.setAttribute("aria-labelledby", [combobox.id, chosen?.id].filter(Boolean).join(" "));
        combobox.querySelector(".select2-search__field")?.setAttribute("aria-label", name);
    }

    /* A sign with an explanation is a picture with a text. */
    function nameSign(sign) {
        sign.setAttribute("role", "img");
    }

    function mend() {
        document.querySelectorAll(".select2-selection").forEach(nameCombobox);
        document.querySelectorAll(".help-tooltip[aria-label]:not([role])").forEach(nameSign);
    }

    document.addEventListener("DOMContentLoaded", () => {
        mend();
        new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
    });
})();
