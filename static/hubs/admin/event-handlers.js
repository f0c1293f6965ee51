// On a hub's page: event handlers and listeners are lines that open. A new one opens by itself, and the keyboard opens them too.
"use strict";

(() => {
    const ROWS = "#event_handlers-data > .form-group, #event_listeners-data > .form-group";

    function prepare(row) {
        const title = row.querySelector("h3");
        if (!title) return;
        title.tabIndex = 0;
        title.setAttribute("role", "button");
    }

    document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(ROWS).forEach(prepare));

    document.addEventListener("formset:added", (event) => {
        const row = event.target.closest(ROWS);
        if (!row) return;
        prepare(row);
        // The theme's script has to see the row before it can be opened.
        requestAnimationFrame(() => row.querySelector("h3").click());
    });

    document.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        if (event.target.tagName === "H3" && event.target.closest(ROWS)) {
            event.preventDefault();
            event.target.click();
        }
    });
})();
