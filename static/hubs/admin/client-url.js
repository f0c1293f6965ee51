// The Client URL Generator: patterns appear with their role, and a WebSocket to try the URL.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
    for (const part of document.querySelectorAll("[data-shown-with]")) {
        const box = document.querySelector(`input[name="${part.dataset.shownWith}"]`);
        const hasError = part.querySelector(".errors") !== null;
        const adapt = (first) => {
            // What the server complained about stays in sight.
            const shown = box.checked || (first === true && hasError);
            part.hidden = !shown;
            for (const field of part.querySelectorAll("textarea")) field.disabled = !shown;
        };
        box.addEventListener("change", adapt);
        adapt(true);
    }

    const connect = document.getElementById("try-connect");
    if (connect) tryIt(connect);

    function tryIt(connect) {
        const MAX_LINES = 200;
        const disconnect = document.getElementById("try-disconnect");
        const send = document.getElementById("try-send");
        const status = document.getElementById("try-status");
        const log = document.getElementById("try-log");
        let socket = null;

        function note(kind, text) {
            const line = document.createElement("li");
            line.className = `hw-log-${kind}`;
            line.textContent = text;
            log.append(line);
            while (log.children.length > MAX_LINES) log.firstChild.remove();
            log.scrollTop = log.scrollHeight;
        }

        function show(state) {
            status.textContent = state;
            connect.disabled = socket !== null;
            disconnect.disabled = socket === null;
            send.disabled = socket === null || socket.readyState !== WebSocket.OPEN;
        }

        connect.addEventListener("click", () => {
            try {
                socket = new WebSocket(document.getElementById("client-url").textContent, "json.webpubsub.azure.v1");
            } catch (error) {
                show(`This page may not open it: ${error.message}`);
                return;
            }
            let opened = false;
            socket.onopen = () => { opened = true; show("Connected"); };
            socket.onmessage = (event) => note("in", event.data);
            socket.onclose = (event) => {
                socket = null;
                const why = [event.code, event.reason].filter(Boolean).join(" ");
                show(opened ? `Closed (${why})` : "Refused, or the service cannot be reached from here");
            };
            show("Connecting…");
        });
        disconnect.addEventListener("click", () => socket && socket.close());
        document.getElementById("try-form").addEventListener("submit", (event) => {
            event.preventDefault();
            const frame = document.getElementById("try-frame").value;
            if (socket && socket.readyState === WebSocket.OPEN) {
                socket.send(frame);
                note("out", frame);
            }
        });
        window.addEventListener("pagehide", () => socket && socket.close());
    }
});
