// Runs before the page is built: language and colours are those chosen last, and the page asks
// nobody but itself.
(() => {
  const names = { en: "EN", zh: "中文" };
  const stored = (key) => {
    try {
      return localStorage.getItem("minicpmv-" + key);
    } catch {
      return null; // storage is forbidden in this browser
    }
  };
  const store = (key, value) => {
    try {
      localStorage.setItem("minicpmv-" + key, value);
    } catch {
      return; // the choice lasts as long as the page
    }
  };
  let code = stored("language") || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

  // Words that Gradio itself writes follow the browser's language; they are to follow the choice.
  const spoken = code === "zh" ? "zh-CN" : "en";
  Object.defineProperty(navigator, "language", { get: () => spoken, configurable: true });
  Object.defineProperty(navigator, "languages", { get: () => [spoken], configurable: true });

  const isDark = () => stored("colours") === "dark";
  // Gradio paints by the system's colours; what was chosen here wins.
  const paint = () => {
    const { classList } = document.body;
    if (stored("colours") && classList.contains("dark") !== isDark()) classList.toggle("dark", isDark());
  };
  const tell = () => {
    document.documentElement.lang = code === "zh" ? "zh-CN" : "en";
    window.dispatchEvent(new CustomEvent("minicpmv-language", { detail: code }));
  };

  // Thumbnails of Gradio call themselves items of a list that is not there.
  const mend = () => {
    for (const item of document.querySelectorAll("[role=listitem].thumbnail-wrapper")) item.setAttribute("role", "group");
  };

  // Files may be dropped and pasted anywhere: they go to the box of the tab that is open.
  const give = (event, files) => {
    if (event.defaultPrevented || !files || !files.length) return;
    const boxes = [...document.querySelectorAll("#ask, #compare-ask")];
    const open = boxes.find((box) => box.offsetParent);
    if (!open) return;
    event.preventDefault();
    const input = open.querySelector("input[type=file]");
    input.files = files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  document.addEventListener("dragover", (event) => {
    if ([...event.dataTransfer.types].includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => give(event, event.dataTransfer.files));
  document.addEventListener("paste", (event) => {
    if (!event.target.closest || !event.target.closest("#ask, #compare-ask")) give(event, event.clipboardData.files);
  });

  window.minicpmv = {
    code: () => code,
    name: () => names[code],
    speak(name) {
      code = name === names.zh ? "zh" : "en";
      store("language", code);
      tell();
    },
    flip() {
      store("colours", document.body.classList.contains("dark") ? "light" : "dark");
      paint();
    },
  };
  const begin = () => {
    tell();
    paint();
    new MutationObserver(paint).observe(document.body, { attributeFilter: ["class"] });
    new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  };
  if (document.body) begin();
  else document.addEventListener("DOMContentLoaded", begin);
})();
