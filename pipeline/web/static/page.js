// The page works without this; with it, hits follow the slider, pictures can be dropped and pasted, and keys move about.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("ask");
const trouble = byId("trouble");

let saying = 0;
// Screen readers hear what changes in #status, once it has been still for a moment.
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => { byId("status").textContent = text; }, 400);
}

function complain(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
  if (text) say(text);
}

// --- hits that follow the form -----------------------------------------------------------------------------------------

const WAIT_MS = 20000;
const ADDRESS_MS = 250; // browsers allow some hundred changes of the address in half a minute, and no more
let stale = false; // the form changed since the request under way was sent
let asking = false;
let leaving = false; // for another page, which ends the request under way
let changingAddress = 0;

const asked = () => new URLSearchParams([...new FormData(form)].filter(([, value]) => value));

// One request at a time, and another where the form has changed meanwhile: so the last answer shown is to the last question.
async function refine() {
  stale = true;
  if (asking || !byId("found")) return;
  asking = true;
  byId("found").setAttribute("aria-busy", "true");
  while (stale) {
    stale = false;
    try {
      const answer = await fetch(`/results?${asked()}`, { signal: AbortSignal.timeout(WAIT_MS) });
      const text = await answer.text();
      if (!answer.headers.get("content-type").startsWith("text/html")) throw new Error(text); // what is wrong, in a line
      show(text);
    } catch (error) {
      if (!leaving) complain(error.name === "TimeoutError" || error instanceof TypeError ? "The server does not answer." : error.message);
    }
  }
  byId("found")?.removeAttribute("aria-busy");
  asking = false;
}

function show(html) {
  const found = new DOMParser().parseFromString(html, "text/html").getElementById("found");
  byId("found").replaceWith(found);
  complain("");
  begin(found);
  clearTimeout(changingAddress);
  changingAddress = setTimeout(() => {
    document.title = found.dataset.title;
    history.replaceState(null, "", `/?${found.dataset.address}`);
  }, ADDRESS_MS);
}

function begin(found) {
  if (found?.dataset.said) say(found.dataset.said);
}

if (form) {
  form.addEventListener("input", ({ target }) => {
    if (target.name !== "scale") return;
    byId("lambda").value = target.value;
    if (form.elements.plus.value || form.elements.minus.value) refine();
  });
  form.addEventListener("change", ({ target }) => {
    if (target.name !== "q" && target.name !== "scale") refine(); // what is typed counts for the links of the hits, too
  });
  form.addEventListener("submit", () => {
    leaving = true;
    byId("found")?.setAttribute("aria-busy", "true");
    say("Searching");
  });
  addEventListener("pageshow", () => {
    leaving = false;
    byId("found")?.removeAttribute("aria-busy");
  });
}

document.addEventListener("click", async ({ target }) => {
  if (target.id === "copy") {
    const link = `${location.origin}/?${byId("found").dataset.address}`;
    try {
      await navigator.clipboard.writeText(link);
      target.textContent = "Link copied";
      say("The link is copied");
    } catch {
      prompt("The link of this search", link); // no clipboard for pages on plain http from another machine
    }
  } else if (target.matches(".keys")) {
    byId("keys").showModal();
  }
});

// --- a picture from outside --------------------------------------------------------------------------------------------

const TOLD = "tintype-told"; // to the page that comes next

async function bring(files) {
  const file = picture(files);
  if (!file) return;
  complain("");
  say(`Sending ${file.name}`);
  document.body.setAttribute("aria-busy", "true");
  try {
    const body = new FormData();
    body.append("file", file);
    const answer = await fetch("/api/pictures", { method: "POST", body });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error);
    const search = asked();
    for (const name of ["q", "mode", "plus", "minus", "scale"]) search.delete(name);
    search.set("image", said.image);
    if (files.length > 1) sessionStorage.setItem(TOLD, `Of ${files.length} files ${file.name} was taken: search by one picture at a time.`);
    location.assign(`/?${search}`);
  } catch (error) {
    const refused = error instanceof TypeError || error instanceof SyntaxError;
    complain(refused ? `The server did not take ${file.name}: it may be too large.` : error.message);
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

const picture = (list) => [...(list ?? [])].find((file) => file.type.startsWith("image/")) ?? list?.[0];

if (form) {
  const chooser = document.querySelector("input[name=file]");
  chooser.addEventListener("change", () => bring(chooser.files));
  addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    bring(event.clipboardData.files);
  });
  let ours = false; // a picture of this page is dragged
  addEventListener("dragstart", () => { ours = true; });
  addEventListener("dragend", () => { ours = false; });
  const over = (event) => !ours && event.dataTransfer?.types.includes("Files");
  const target = byId("target");
  addEventListener("dragover", (event) => {
    if (!over(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    target.hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) target.hidden = true; });
  addEventListener("drop", (event) => {
    target.hidden = true;
    if (!over(event)) return;
    event.preventDefault();
    bring(event.dataTransfer.files);
  });
}

// --- keys --------------------------------------------------------------------------------------------------------------

const opened = () => [...document.querySelectorAll(".hit .open")];

function move(steps) {
  const links = opened();
  const at = links.indexOf(document.activeElement);
  const to = links[at < 0 ? 0 : at + steps];
  if (!to) return;
  to.focus({ preventScroll: true });
  to.closest(".hit").scrollIntoView({ block: "nearest" });
}

// How many stand in a row: those whose top is that of the first of their list.
function row(list = document) {
  const hits = [...list.querySelectorAll(".hit")];
  return hits.filter((hit) => hit.offsetTop === hits[0].offsetTop).length;
}

addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  if (target.matches("input, select, textarea")) {
    if (key === "Escape") target.blur();
    return;
  }
  const onHit = target.closest(".hit");
  if (key === "/" && byId("q")) byId("q").focus();
  else if (key === "?") byId("keys").showModal();
  else if (key === "j" || key === "ArrowRight") move(1);
  else if (key === "k" || key === "ArrowLeft") move(-1);
  else if (key === "ArrowDown" && onHit) move(row(onHit.parentElement));
  else if (key === "ArrowUp" && onHit) move(-row(onHit.parentElement));
  else if (key === "m") (onHit ?? document.querySelector(".photo"))?.querySelector(".like")?.click();
  else return;
  event.preventDefault();
});

byId("rerank")?.addEventListener("submit", () => {
  document.querySelector(".found")?.setAttribute("aria-busy", "true");
  say("Asking Unsplash");
});

begin(byId("found"));
if (trouble && sessionStorage.getItem(TOLD)) {
  complain(sessionStorage.getItem(TOLD));
  sessionStorage.removeItem(TOLD);
}
