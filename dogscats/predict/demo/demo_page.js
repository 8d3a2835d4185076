// The page to try a run. The photo chosen last is the one that is shown; one at a time is uploaded and judged.
let latest = 0, queue = Promise.resolve(), stream = null;

const say = text => { find("status").textContent = text; };

function refuse(reason) {
  say("");
  find("answer").replaceChildren(make("p", {className: "refused", role: "alert"}, `This photo cannot be used: ${reason}.`));
}

function look(file) {
  const mine = ++latest, picture = find("shown");
  closeCamera();
  URL.revokeObjectURL(picture.src);
  find("seen").hidden = picture.hidden = false;
  picture.src = URL.createObjectURL(file);
  find("answer").replaceChildren();
  say("Looking at the photo …");
  queue = queue.then(() => mine === latest ? judged(file, mine) : null).catch(() => {
    if (mine === latest) refuse("the server does not answer");
  });
}

async function judged(file, mine) {
  if (file.size > props.most_bytes) return refuse(`it has more than ${props.most_bytes / 2 ** 20} MB`);
  let found = {gone: true};
  // Gone: another visitor has uploaded the same photo, and its file was deleted with the verdict.
  for (let tries = 0; found.gone && tries < 5; tries++) found = await server.judge((await upload(file)).path);
  if (mine !== latest) return;
  if (found.refused) return refuse(found.refused);
  say("");
  find("answer").replaceChildren(verdict(found), pictures("seen", found.seen),
    ...(found.similar.length ? [make("h2", {}, "Most similar training photos, with their cosine similarity"), pictures("similar", found.similar)] : []));
}

const pictures = (kind, all) => make("div", {className: `pictures ${kind}`}, ...all.map(({src, caption}) =>
  make("figure", {}, make("img", {src, alt: ""}), make("figcaption", {}, caption))));

function choose(files) {
  if (!files.length) return;
  look(files[0]);
  if (files.length > 1) say(`One photo at a time: this is the first of ${files.length}.`);
}

// Camera

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
  } catch (error) {
    return say(`The camera cannot be used: ${error.message.replace(/\.$/, "")}.`);
  }
  find("video").srcObject = stream;
  find("seen").hidden = find("video").hidden = find("shutter").hidden = false;
  find("shown").hidden = true;
  await find("video").play();
  find("take").focus();
}

function closeCamera() {
  stream?.getTracks().forEach(track => track.stop());
  stream = null;
  find("video").hidden = find("shutter").hidden = true;
  find("shown").hidden = !find("shown").src;
}

function take() {
  const video = find("video"), canvas = make("canvas", {width: video.videoWidth, height: video.videoHeight});
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob(blob => look(new File([blob], "camera.png")));
  find("camera").focus();
}

// Input

find("choose").addEventListener("change", ({target}) => { choose([...target.files]); target.value = ""; });
document.addEventListener("dragover", event => { event.preventDefault(); element.classList.add("dragging"); });
document.addEventListener("dragleave", event => { if (!event.relatedTarget) element.classList.remove("dragging"); });
document.addEventListener("drop", event => {
  event.preventDefault();
  element.classList.remove("dragging");
  choose([...event.dataTransfer.files]);
});
document.addEventListener("paste", ({clipboardData}) => {
  if (clipboardData.files.length) choose([...clipboardData.files]);
  else say("There is no photo on the clipboard.");
});
find("shown").addEventListener("error", ({target}) => { find("seen").hidden = target.hidden = true; });  // such as HEIC; the verdict has a picture
find("camera").hidden = !navigator.mediaDevices;
find("camera").addEventListener("click", openCamera);
find("take").addEventListener("click", take);
find("close").addEventListener("click", closeCamera);

server.classes(null).then(classes => {
  if (latest) return;
  const known = classes.slice(0, 10).flatMap((name, index) => [index ? ", " : "", make("b", {}, named(name))]);
  const more = classes.length > 10 ? [` and ${(classes.length - 10).toLocaleString("en")} more`] : [];
  find("answer").replaceChildren(make("p", {className: "welcome"}, "This classifier knows ", ...known, ...more, "."));
});
