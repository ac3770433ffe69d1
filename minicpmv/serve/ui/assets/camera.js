// The camera of the chat: a dialog that takes one picture. `element` is the component's own element.
const dialog = element.querySelector("dialog");
const video = element.querySelector("video");
const note = element.querySelector("p");
const find = (name) => element.querySelector("[data-do=" + name + "]");
let stream = null;
let facing = "environment";

async function start() {
  note.textContent = "";
  if (!navigator.mediaDevices) return (note.textContent = note.dataset.insecure);
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: facing, width: { ideal: 1920 } },
      audio: false,
    });
  } catch (error) {
    return (note.textContent = error.name === "NotFoundError" ? note.dataset.missing : note.dataset.refused);
  }
  if (!dialog.open) return stop(); // closed while the browser asked
  video.srcObject = stream;
  await video.play();
  find("take").disabled = false;
}

function stop() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  video.srcObject = null;
  find("take").disabled = true;
}

async function take() {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const data = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  const name = "camera-" + new Date().toISOString().replace(/[:.]/g, "-") + ".jpg";
  dialog.close();
  const { path } = await upload(new File([data], name, { type: "image/jpeg" }));
  trigger("upload", { path });
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button) return;
  if (button.dataset.do === "open") {
    dialog.showModal();
    start();
  }
  if (button.dataset.do === "close") dialog.close();
  if (button.dataset.do === "take") take();
  if (button.dataset.do === "flip") {
    facing = facing === "user" ? "environment" : "user";
    stop();
    start();
  }
});
dialog.addEventListener("close", stop);
