"use strict";
// The page of a session: it asks for one thing at a time and shows the answer. All that matters is kept by the session.

const WORLD = "#0072b2", DREAM = "#d55e00", BAND = "#fbe3d3";
const SHOWN = 240; // moments of a strip
const CHOICES = [..."1234567890qwertyuioasdfghjklzxcm"];
const PAIRS = [["ArrowLeft", "ArrowRight"], ["ArrowDown", "ArrowUp"], ["a", "d"], ["s", "w"], ["f", "h"], ["g", "t"], ["j", "l"], ["k", "i"]];
const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowDown: "↓", ArrowUp: "↑" };
const STRIPS = [
  ["reward", (m) => [m.world && m.world.reward, m.dream.reward]],
  ["probability to go on", (m) => [m.world && m.world.continuation, m.dream.continuation], [0, 1]],
  ["value", (m) => [m.world && m.world.value, m.dream.value]],
  ["latent error; solid: no change", (m) => [m.moved, m.error], [0, 0], true],
];

const at = (id) => document.getElementById(id);
const held = new Set();
let socket, controls = [], values = [], moments = [], look = null, rate = 10, dreaming = false, withoutAgent = "";
let running = false, agent = false, waiting = false, next = null, lastStep = 0;

function connect() {
  socket = new WebSocket(new URL("session", location.href).href.replace(/^http/, "ws"));
  waiting = true;
  socket.onmessage = (event) => { waiting = false; hear(JSON.parse(event.data)); };
  socket.onclose = () => {
    at("status").textContent = "The session cannot be reached; trying again. Nothing of it is lost while the command runs.";
    setTimeout(connect, 1000);
  };
}

// One request at a time; of those that come meanwhile, the last.
function ask(request) {
  if (waiting || socket.readyState !== WebSocket.OPEN) { next = request; return; }
  waiting = true;
  socket.send(JSON.stringify(request));
}

function hear(told) {
  if (told.title !== undefined) begin(told);
  moments.length = told.from;
  moments.push(...told.moments);
  look = told.look; rate = told.rate; dreaming = told.dreaming;
  at("problem").hidden = !told.problem;
  at("problem").textContent = told.problem;
  if (told.problem) { running = agent = false; }
  if (told.world) at("world-picture").src = told.world;
  at("dream-picture").src = told.dream;
  show();
  if (next) { const request = next; next = null; ask(request); }
}

function begin(told) {
  at("title").textContent = document.title = told.title;
  withoutAgent = told.withoutAgent;
  at("agent").disabled = Boolean(withoutAgent);
  at("agent").title = withoutAgent;
  at("memory").hidden = !told.label;
  at("memory-label").textContent = told.label;
  if (controls.length) return; // the same session again
  controls = told.controls;
  values = controls.map((control) => control.choices ? 0 : Math.min(Math.max(0, control.low), control.high));
  controls.forEach(control_element);
  STRIPS.forEach(strip_element);
}

function control_element(control, number) {
  const box = document.createElement("div");
  if (control.choices) {
    const named = number === controls.findIndex((one) => one.choices); // keys belong to the first choice
    const chosen = document.createElement("select");
    for (let choice = 0; choice < control.choices; choice++) {
      if (controls.length === 1) {
        const button = document.createElement("button");
        button.append(`action ${choice} `);
        if (choice < CHOICES.length) button.append(key(CHOICES[choice]));
        button.id = `choice-${choice}`;
        button.onclick = () => act({ [number]: choice });
        at("actions").append(button);
      } else chosen.add(new Option(`action ${choice}${named && CHOICES[choice] ? ` (${CHOICES[choice]})` : ""}`, choice));
    }
    if (controls.length === 1) return;
    chosen.setAttribute("aria-label", `choice ${number}`);
    chosen.onchange = () => { values[number] = Number(chosen.value); };
    box.append(chosen);
  } else {
    const slider = document.createElement("input"), shown = document.createElement("output");
    Object.assign(slider, { type: "range", min: control.low, max: control.high, step: (control.high - control.low) / 100, value: values[number], id: `slider-${number}` });
    slider.setAttribute("aria-label", `action ${number}`);
    slider.oninput = () => { values[number] = Number(slider.value); shown.textContent = values[number].toFixed(2); };
    shown.textContent = values[number].toFixed(2);
    const pair = PAIRS[real(number)];
    box.className = "slider";
    box.append(`action ${number} `, ...(pair ? [key(pair[0])] : []), slider, ...(pair ? [key(pair[1])] : []), shown);
  }
  at("actions").append(box);
}

function key(name) {
  const element = document.createElement("kbd");
  element.textContent = NAMES[name] || name;
  return element;
}

const real = (number) => controls.slice(0, number).filter((control) => !control.choices).length;

// What the keys that are down, and else sliders and choices, ask for.
function action() {
  const given = values.slice();
  const choice = controls.findIndex((control) => control.choices);
  controls.forEach((control, number) => {
    const pair = control.choices ? null : PAIRS[real(number)];
    if (pair && held.has(pair[0]) !== held.has(pair[1])) given[number] = held.has(pair[0]) ? control.low : control.high;
  });
  for (const name of held) {
    const chosen = CHOICES.indexOf(name);
    if (choice >= 0 && chosen >= 0 && chosen < controls[choice].choices && !means_slider(name)) given[choice] = chosen;
  }
  return given;
}

const means_slider = (name) => PAIRS.slice(0, real(controls.length)).some((pair) => pair.includes(name));
const means_choice = (name) => controls.some((control) => control.choices > CHOICES.indexOf(name)) && CHOICES.includes(name);

function act(chosen) {
  agent = false;
  if (running && !Object.keys(chosen).length) return; // the clock takes what is held
  step(Object.assign(action(), chosen));
}

function step(given) {
  lastStep = performance.now();
  ask({ do: "step", action: given });
}

function tick() {
  const due = lastStep + 1000 / rate - performance.now();
  if (running && !waiting && due <= 2) step(agent ? null : action());
  setTimeout(tick, running ? Math.max(2, Math.min(due, 20)) : 30);
}

const shown = () => (look === null ? moments.length - 1 : look);
const DO = {
  run: () => { running = !running; show(); },
  agent: () => { if (!withoutAgent) { agent = !agent; running = agent; show(); } },
  branch: () => ask({ do: "dream", at: shown() }),
  wake: () => ask({ do: "wake" }),
  restart: () => ask({ do: "restart" }),
  slower: () => ask({ do: "rate", value: rate / 1.5 }),
  faster: () => ask({ do: "rate", value: rate * 1.5 }),
  film: () => at("film").click(),
};
const KEYS = { " ": "run", p: "agent", b: "branch", Escape: "wake", n: "restart", "-": "slower", "+": "faster", "=": "faster", v: "film" };

function turn(to) {
  running = false;
  const place = Math.min(Math.max(to, 0), moments.length - 1);
  ask({ do: "look", at: place === moments.length - 1 ? null : place });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const on = event.target;
  if ((on.matches("button, a") && (name === " " || name === "Enter")) || (on.matches("input, select") && name.startsWith("Arrow"))) return;
  if (KEYS[name]) {
    event.preventDefault();
    if (!event.repeat || KEYS[name] === "slower" || KEYS[name] === "faster") DO[KEYS[name]]();
  } else if (name === "," || name === ".") {
    turn(shown() + (name === "." ? 1 : -1));
  } else if (means_slider(name) || means_choice(name)) {
    event.preventDefault();
    held.add(name);
    if (!running || agent) act({});
    show();
  }
});
document.addEventListener("keyup", (event) => { held.delete(event.key.length === 1 ? event.key.toLowerCase() : event.key); show(); });
window.addEventListener("blur", () => held.clear());
for (const id of ["run", "agent", "branch", "wake", "restart", "slower", "faster"]) at(id).onclick = DO[id];
at("moment").oninput = () => turn(Number(at("moment").value));

// ---------------------------------------------------------------- what is seen

function show() {
  if (!moments.length) return;
  const place = shown(), moment = moments[place];
  at("run").firstElementChild.textContent = running ? "pause" : "run";
  at("agent").setAttribute("aria-pressed", String(agent));
  at("wake").disabled = !dreaming;
  at("rate").textContent = `${rate.toFixed(rate < 10 ? 1 : 0)} steps/s`;
  at("moment").max = moments.length - 1;
  at("moment").value = place;
  at("moment-number").textContent = `${place} / ${moments.length - 1}`;
  at("world").className = moment.world ? "" : "waits";
  at("world-says").textContent = !moment.world ? "waits until you are back" : moment.ended ? "the episode ended here" : moment.begins ? "an episode begins" : "";
  at("dream").className = moment.dreaming ? "dreaming" : "";
  let since = place;
  while (since > 0 && moments[since - 1].dreaming) since--;
  at("dream-says").textContent = moment.dreaming ? `dreams on since moment ${since}` : "foreseen one step before";
  if (moment.memory !== null) {
    at("memory-distance").value = moment.memory;
    at("memory-number").textContent = moment.memory.toFixed(2);
  }
  const who = agent ? "the agent plays" : "your keys count";
  at("status").textContent = `${running ? "running" : "paused: an action makes one step"}; ${who}; ${dreaming ? "world and dream go apart" : "the dream follows the world"}`;
  document.querySelectorAll("#actions button").forEach((button, choice) => button.classList.toggle("held", held.has(CHOICES[choice])));
  STRIPS.forEach((strip, number) => draw(strip, number, place));
}

function strip_element([name], number) {
  const row = document.createElement("div"), words = document.createElement("div"), canvas = document.createElement("canvas");
  row.className = "strip";
  words.append(name, document.createElement("br"), document.createElement("span"));
  canvas.id = `strip-${number}`;
  canvas.setAttribute("role", "img");
  canvas.onclick = (event) => turn(first() + Math.round((event.offsetX / canvas.clientWidth) * SHOWN));
  row.append(words, canvas);
  at("strips").append(row);
}

const first = () => Math.max(0, Math.min(shown() - Math.round(0.75 * SHOWN), moments.length - 1 - SHOWN));
const number_text = (value) => (value === null || value === undefined ? "–" : value.toFixed(Math.abs(value) < 10 ? 2 : 1));

function draw([name, read, range, errors], number, place) {
  const canvas = at(`strip-${number}`), scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight, from = first();
  canvas.width = width * scale; canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const window_ = moments.slice(from, from + SHOWN + 1), pairs = window_.map(read);
  const numbers = pairs.flat().filter((value) => value !== null && Number.isFinite(value)).concat(range || []);
  let low = Math.min(...numbers, Infinity), high = Math.max(...numbers, -Infinity);
  if (!(high > low)) { const middle = Number.isFinite(low) ? low : 0; low = middle - 1; high = middle + 1; }
  const x = (index) => (index / SHOWN) * width, y = (value) => 4 + (1 - (value - low) / (high - low)) * (height - 8);
  window_.forEach((moment, index) => {
    if (moment.dreaming) { pen.fillStyle = BAND; pen.fillRect(x(index - 0.5), 0, x(1) + 0.5, height); }
    if (moment.begins) { pen.fillStyle = "#9aa0a6"; pen.fillRect(x(index), 0, 1, height); }
  });
  [[WORLD, [], 0], [DREAM, [6, 4], 1]].forEach(([color, dashes, side]) => {
    pen.strokeStyle = color; pen.lineWidth = 2; pen.setLineDash(dashes); pen.beginPath();
    let open = false;
    pairs.forEach((pair, index) => {
      const value = pair[side];
      if (value === null || !Number.isFinite(value)) { open = false; return; }
      if (open) pen.lineTo(x(index), y(value)); else pen.moveTo(x(index), y(value));
      open = true;
    });
    pen.stroke();
  });
  pen.setLineDash([]); pen.fillStyle = "#202124"; pen.fillRect(x(place - from), 0, 1, height);
  const [world, dream] = read(moments[place]);
  const words = errors ? `dream ${number_text(dream)}, no change ${number_text(world)}` : `world ${number_text(world)}, dream ${number_text(dream)}`;
  canvas.previousElementSibling.lastElementChild.textContent = words;
  canvas.setAttribute("aria-label", `${name}: ${words}`);
}

window.addEventListener("resize", show);
connect();
tick();
