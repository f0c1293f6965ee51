// In forms of role grants, show the user or the Django group only when the grant is about one.
// A field that is hidden is disabled too, so that what was chosen in it before is not sent.
"use strict";

(() => {
    const FIELDS = { user: "user", group: "group" };

    function containerOf(field) {
        return field.closest("td.field-user, td.field-group") ? null : field.closest(".field-user, .field-group, .form-row");
    }

    function adapt(who) {
        const prefix = who.name.slice(0, -"who".length);
        for (const [value, name] of Object.entries(FIELDS)) {
            const field = document.getElementById(`id_${prefix}${name}`);
            if (!field) continue;
            const wanted = who.value === value;
            field.disabled = !wanted;
            const row = containerOf(field);
            if (row) {
                row.hidden = !wanted;
            } else {
                // In a table the cell has to stay; what is in it goes.
                for (const child of field.closest("td").children) child.hidden = !wanted;
            }
        }
    }

    const isWho = (element) => element.matches && element.matches("select[name=who], select[name$='-who']");

    function adaptAll(root) {
        for (const who of root.querySelectorAll("select[name=who], select[name$='-who']")) adapt(who);
    }

    document.addEventListener("change", (event) => {
        if (isWho(event.target)) adapt(event.target);
    });
    document.addEventListener("formset:added", (event) => adaptAll(event.target));
    document.addEventListener("DOMContentLoaded", () => adaptAll(document));
})();
