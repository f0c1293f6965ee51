/* Buttons that copy a text: <button data-copies="id of the element with the text">. */

for (const button of document.querySelectorAll("button[data-copies]")) {
  const label = button.textContent;
  let timer = 0;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copies);
    button.textContent = (await copied(source.textContent)) ? "Copied" : select(source);
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = label), 2500);
  });
}

async function copied(text) {
  try {
    // Browsers offer the clipboard to https and localhost only.
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function select(source) {
  window.getSelection().selectAllChildren(source);
  return "Press Ctrl+C";
}
