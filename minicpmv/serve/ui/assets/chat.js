// The conversation: its HTML comes from Python, here its buttons work. `element` is its own element.
const box = element.closest("#chat");
let isFollowing = true;

box.addEventListener("scroll", () => {
  isFollowing = box.scrollHeight - box.scrollTop - box.clientHeight < 48;
});
new MutationObserver(() => {
  if (isFollowing) box.scrollTop = box.scrollHeight;
}).observe(element, { childList: true, subtree: true, characterData: true });
element.addEventListener("load", () => isFollowing && (box.scrollTop = box.scrollHeight), true);

element.addEventListener("click", async (event) => {
  const example = event.target.closest("[data-example]");
  if (example) return trigger("example_select", { example: Number(example.dataset.example) });
  const button = event.target.closest("[data-do]");
  if (!button) return;
  const turn = Number(button.closest("[data-turn]").dataset.turn);
  if (button.dataset.do === "copy") return copy(button);
  if (button.dataset.do === "edit") return edit(button.closest(".turn"), turn);
  isFollowing = true;
  trigger("retry", { turn });
});

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.text);
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: button.dataset.text });
    document.body.append(area);
    area.select();
    document.execCommand("copy"); // where pages without https have no clipboard
    area.remove();
  }
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
}

// The bubble becomes a field: Enter sends it, Escape leaves it as it was.
function edit(article, turn) {
  const bubble = article.querySelector(".question");
  const text = bubble.querySelector(".text");
  if (bubble.querySelector("textarea")) return;
  const before = text ? text.textContent : "";
  const area = Object.assign(document.createElement("textarea"), { value: before, rows: 2 });
  area.setAttribute("aria-label", article.querySelector("[data-do=edit]").title);
  if (text) text.hidden = true;
  bubble.append(area);
  area.focus();
  const leave = () => {
    area.remove();
    if (text) text.hidden = false;
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    const next = area.value.trim();
    leave();
    isFollowing = true;
    if (next) trigger("edit", { turn, text: next });
  });
}

// What else was likely stays inside of the conversation: further left, or above its token.
function place(event) {
  const token = event.target.closest(".token");
  if (!token || matchMedia("(max-width: 899px)").matches) return;
  const tip = token.querySelector(".tip");
  tip.style.cssText = "";
  const room = box.getBoundingClientRect();
  const { right, bottom } = tip.getBoundingClientRect();
  if (right > room.right - 12) tip.style.left = room.right - 12 - right + "px";
  if (bottom > room.bottom - 4) Object.assign(tip.style, { top: "auto", bottom: "calc(100% + 4px)" });
}
element.addEventListener("mouseover", place);
element.addEventListener("focusin", place);

// With the keyboard, arrows go from token to token.
element.addEventListener("keydown", (event) => {
  const tokens = event.target.closest(".tokens");
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!tokens || !step) return;
  event.preventDefault();
  const all = [...tokens.querySelectorAll(".token")];
  const next = all.indexOf(event.target.closest(".token")) + step;
  if (all[next]) all[next].focus();
});
