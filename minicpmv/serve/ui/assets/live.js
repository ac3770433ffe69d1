// The live tab. One question at a time is on its way; frames that come meanwhile are dropped, so an
// answer is always about the newest frame there was. `element` is the component's own element.
const WIDTH = 640;
const KEPT = 30; // answers in the list
const find = (name) => element.querySelector(".live-" + name);
const root = element.querySelector(".live");
const words = JSON.parse(root.dataset.words);
const video = element.querySelector("video");
const canvas = document.createElement("canvas");

let stream = null;
let facing = "environment";
let timer = 0;
let sending = null; // the AbortController of the question on its way
let frames = []; // the newest ones, with the time at which they were taken
let answered = 0;
let dropped = 0;
let language = "en";

function say(name) {
  return words[language][name];
}

function translate(next) {
  const asked = find("question").value;
  const isOwn = asked && !Object.values(words).some((own) => own.live_question_value === asked);
  language = words[next] ? next : "en";
  for (const item of element.querySelectorAll("[data-word]")) item.textContent = say(item.dataset.word);
  if (!isOwn) find("question").value = say("live_question_value");
  find("start").textContent = say(stream ? "live_stop" : "live_start");
}

async function offer() {
  const select = find("model");
  const response = await fetch("live/models").catch(() => null);
  const found = response ? await response.json() : { error: "" };
  if (found.error !== undefined) return note(found.error);
  const chosen = select.value;
  select.replaceChildren(...found.models.map((name) => new Option(name, name, false, name === chosen)));
}

function note(text) {
  element.querySelector(".live-note").textContent = text;
  element.querySelector(".live-note").hidden = !text;
}

async function start() {
  if (!navigator.mediaDevices) return note(say("live_insecure"));
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: facing, width: { ideal: 1280 } },
      audio: false,
    });
  } catch (error) {
    return note(say(error.name === "NotFoundError" ? "live_missing" : "live_refused"));
  }
  video.srcObject = stream;
  await video.play();
  note("");
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((d) => d.kind === "videoinput");
  find("flip").hidden = cameras.length < 2;
  find("start").textContent = say("live_stop");
  root.classList.add("on");
  await offer();
  tick();
}

function stop() {
  clearTimeout(timer);
  if (sending) sending.abort();
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  video.srcObject = null;
  frames = [];
  root.classList.remove("on");
  find("start").textContent = say("live_start");
  note(say("live_waiting"));
}

function tick() {
  if (!stream) return;
  timer = setTimeout(tick, 1000 / Number(find("rate").value));
  if (document.hidden || !root.offsetParent || !video.videoWidth) return;
  take();
  if (sending) dropped += 1;
  else ask();
  find("dropped").textContent = dropped;
}

function take() {
  canvas.width = Math.min(WIDTH, video.videoWidth);
  canvas.height = Math.round((canvas.width * video.videoHeight) / video.videoWidth);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  frames.push(canvas.toDataURL("image/jpeg", 0.85));
  frames = frames.slice(-Number(find("together").value));
}

async function ask() {
  const taken = performance.now();
  sending = new AbortController();
  let text = "";
  try {
    const response = await fetch("live/answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: find("model").value,
        question: find("question").value,
        frames,
        max_tokens: Number(find("length").value),
      }),
      signal: sending.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error);
    for await (const line of lines(response)) {
      if (line.error) throw new Error(line.error);
      if (line.text && !text) find("first").textContent = seconds(performance.now() - taken);
      text += line.text || "";
      if (text) find("answer").textContent = text;
    }
    note("");
    answered += 1;
    const delay = seconds(performance.now() - taken);
    find("delay").textContent = delay;
    find("answered").textContent = answered;
    log(text, delay);
  } catch (error) {
    if (error.name !== "AbortError") note(error.message);
  } finally {
    sending = null;
  }
}

async function* lines(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
    if (done) return;
  }
}

function log(text, delay) {
  const list = find("log");
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  item.append(time, " " + text.trim() + " ", Object.assign(document.createElement("small"), { textContent: delay }));
  list.prepend(item);
  while (list.children.length > KEPT) list.lastChild.remove();
}

function seconds(milliseconds) {
  return (milliseconds / 1000).toFixed(2) + " s";
}

find("start").addEventListener("click", () => (stream ? stop() : start()));
find("flip").addEventListener("click", async () => {
  facing = facing === "user" ? "environment" : "user";
  stop();
  await start();
});
window.addEventListener("minicpmv-language", (event) => translate(event.detail));
translate(window.minicpmv.code());
offer();
