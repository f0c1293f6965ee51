// Reveal and copy secrets. The page holds masks only; each secret is fetched when it is asked for,
// by a POST that leaves a line in the log, and is forgotten again when it is hidden.
"use strict";

(() => {
    const csrfToken = () => document.querySelector("input[name=csrfmiddlewaretoken]").value;

    async function fetchSecret(row, what, act) {
        let answer;
        try {
            answer = await fetch(row.dataset.url, {
                method: "POST",
                headers: { "X-CSRFToken": csrfToken() },
                body: new URLSearchParams({ what, act }),
            });
        } catch {
            throw new Error("The server does not answer. Try again in a moment.");
        }
        const isJson = (answer.headers.get("Content-Type") || "").startsWith("application/json");
        if (!isJson) {
            // A redirect to the sign-in page, or Django's page about permissions or CSRF.
            throw new Error(answer.redirected ? "You are signed out. Load the page again." : "Your account may not do that.");
        }
        const content = await answer.json();
        if (!answer.ok) throw new Error(content.error);
        return content.secret;
    }

    function hide(row, button, text) {
        text.textContent = text.dataset.mask;
        button.textContent = "Reveal";
        button.setAttribute("aria-pressed", "false");
    }

    async function reveal(row, button) {
        const text = row.querySelector(`[data-secret-text="${button.dataset.reveal}"]`);
        if (button.getAttribute("aria-pressed") === "true") {
            hide(row, button, text);
            return;
        }
        const secret = await fetchSecret(row, button.dataset.reveal, "reveal");
        text.dataset.mask = text.dataset.mask || text.textContent;
        text.textContent = secret;
        button.textContent = "Hide";
        button.setAttribute("aria-pressed", "true");
    }

    document.addEventListener("click", async (event) => {
        const button = event.target.closest("[data-reveal], [data-copy]");
        const row = button && button.closest("[data-secret]");
        if (!row) return;
        const status = row.querySelector("[data-status]");
        status.textContent = "";
        try {
            if (button.dataset.reveal) {
                await reveal(row, button);
            } else {
                await hubwire.copy(fetchSecret(row, button.dataset.copy, "copy"));
                hubwire.confirmOn(button, "Copied");
            }
        } catch (error) {
            status.textContent = error.message;
        }
    });

    // A page that the browser keeps to go back to must not show what was revealed on it.
    window.addEventListener("pagehide", () => {
        for (const button of document.querySelectorAll("[data-reveal][aria-pressed=true]")) {
            const row = button.closest("[data-secret]");
            hide(row, button, row.querySelector(`[data-secret-text="${button.dataset.reveal}"]`));
        }
    });
})();
