// Where nothing can be pointed at, a tap on a dot tells its configuration.
for (const figure of document.querySelectorAll("figure:has(path > title)")) {
  const told = figure.firstElementChild.appendChild(document.createElement("output"));
  figure.addEventListener("click", (event) => (told.textContent = event.target.querySelector?.(":scope > title")?.textContent ?? ""));
}
for (const button of document.querySelectorAll(".code button")) {
  button.addEventListener("click", async () => {
    const source = button.parentElement.querySelector("pre");
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}
