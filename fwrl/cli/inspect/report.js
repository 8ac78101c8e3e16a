// The page's whole state: an episode, a step, a map, a memory. Everything is drawn from it.
const data = JSON.parse(document.getElementById("data").textContent);
const at = { episode: 0, time: 0, map: 0, memory: 0, hover: null };
const byId = (name) => document.getElementById(name);
const episode = () => data.episodes[at.episode];
const length = () => episode().reward.length;
const STRONGEST = 6;
let shares = null;

function percent(share) {
  return `${(100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0).replace("-", "−")} %`;
}
function digits(number) {
  return number === null ? "not finite" : String(Number(number.toPrecision(4))).replace("-", "−");
}
function element(tag, text, parent, type) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  if (type) made.className = type;
  if (parent) parent.append(made);
  return made;
}
function options(select, names) {
  select.replaceChildren(...names.map((name, i) => new Option(name, i)));
}

function columns(table) {
  return (table[0] || []).map((_, h) => table.map((row) => row[h]));
}

// --- what the policy sees and does --------------------------------------------------------------

function picture(image, time) {
  const address = episode().frames[time];
  image.hidden = !address;
  if (!address) return image.removeAttribute("src");
  image.src = address;
  image.alt = `What was to be seen at step ${time}`;
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 200);
}
function actionText(time) {
  const { probability, action, mean, std } = episode();
  if (!probability) {
    return action[time].map((a, i) =>
      `${digits(a)} (${digits(mean[time][i])} ± ${digits(std[time][i])})`).join(", ");
  }
  return action[time].map((a, i) => `${a} (${percent(probability[time][i][a])})`).join(", ");
}
function drawScene() {
  const now = episode(), t = at.time;
  picture(byId("frame"), t);
  const text = now.observations[t];
  byId("observation").textContent = `Observation: ${text}`;
  const facts = [["Action", actionText(t)], ["Reward", digits(now.reward[t])], ["Value", digits(now.value[t])]];
  byId("facts").replaceChildren();
  for (const [name, value] of facts) {
    element("dt", name, byId("facts"));
    element("dd", value, byId("facts"));
  }
}
function drawProbabilities(canvas) {
  const { probability, action } = episode();
  const rows = [];
  // of several choices at a time, those of the shorter ones are filled up with impossible ones
  probability[0].forEach((choices, f) => choices.forEach((_, a) => {
    if (probability.some((now) => now[f][a] > 0)) rows.push([f, a]);
  }));
  const tall = Math.max(8, Math.min(24, 260 / rows.length));
  const named = tall >= 12 ? 1 : 10;
  const { pen, width, height } = surface(canvas, rows.length * tall + 24);
  const { step, x } = across(width);
  rows.forEach(([f, a], row) => {
    pen.fillStyle = css("--faint");
    pen.textAlign = "right";
    const factors = probability[0].length;
    if (a % named === 0) pen.fillText(factors > 1 ? `${f}: ${a}` : a, LEFT - 8, Math.max(7, (row + 0.5) * tall));
    probability.forEach((now, t) => {
      pen.fillStyle = `rgb(${colour(now[f][a])})`;
      pen.fillRect(LEFT + t * step, row * tall, step + 0.5, tall - 1);
      if (action[t][f] === a && step > 5) {
        pen.fillStyle = css("--card");
        pen.beginPath();
        pen.arc(x(t), (row + 0.5) * tall - 0.5, Math.min(3, step / 4), 0, 7);
        pen.fill();
      }
    });
  });
  timeAxis(pen, width, height);
  cursor(pen, width, height - 18);
}
function drawChoice() {
  const now = episode(), canvas = byId("action");
  if (now.probability) {
    byId("c-action").textContent =
      "Probability of each action, the fuller the colour the higher; dots are what it did";
    drawProbabilities(canvas);
  } else {
    byId("c-action").textContent = "Mean of each action and one standard deviation to either side";
    const bands = columns(now.mean).map((row, i) =>
      row.map((m, t) => [m - now.std[t][i], m + now.std[t][i]]));
    chart(canvas, columns(now.mean), { bands, height: 150 });
  }
  canvas.setAttribute("aria-label", `Actions over ${length()} steps; at step ${at.time}: ${actionText(at.time)}`);
  chart(byId("value"), [now.value], {});
  byId("value").setAttribute("aria-label", `Value over time; now ${digits(now.value[at.time])}`);
  chart(byId("reward"), [now.reward], { stems: true, height: 90 });
  byId("reward").setAttribute("aria-label", `Reward over time; ${digits(now.return)} in all`);
}

// --- the recall map -----------------------------------------------------------------------------

function shownMap() { return episode().maps[at.map]; }

function decode(map) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      const n = (canvas.width = canvas.height = map.largest.length);
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.drawImage(image, 0, 0);
      const grey = pen.getImageData(0, 0, n, n).data;
      resolve((t, s) => ((grey[4 * (t * n + s)] - 127) / 127) * map.largest[t]);
    };
    image.src = map.image;
  });
}
function heatSize() {
  const room = byId("heat").parentElement.clientWidth - 28;
  const cell = Math.min(30, (Math.min(room, 720) - LEFT - RIGHT) / length());
  return { cell, side: cell * length() };
}
function drawHeat() {
  const canvas = byId("heat");
  canvas.hidden = !shares;
  if (!shares) return;
  const n = length(), { cell, side } = heatSize();
  const { pen } = surface(canvas, side + 44, side + LEFT + RIGHT);
  const small = document.createElement("canvas");
  small.width = small.height = n;
  const paint = small.getContext("2d");
  const pixels = paint.createImageData(n, n);
  const table = Array.from({ length: 511 }, (_, i) => colour((i - 255) / 255));
  const own = byId("others").checked;
  for (let t = 0; t < n; t++) {
    for (let s = 0; s <= t; s++) {
      const share = own && s === t ? 0 : Math.max(-1, Math.min(1, shares(t, s)));
      pixels.data.set([...table[Math.round(255 * share) + 255], 255], 4 * (t * n + s));
    }
  }
  paint.putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, LEFT, 0, side, side);
  pen.strokeStyle = css("--now");
  pen.lineWidth = 1.5;
  pen.strokeRect(LEFT, at.time * cell, (at.time + 1) * cell, Math.max(cell, 2));
  pen.fillStyle = css("--faint");
  for (const i of ticks(n, side)) {
    pen.textAlign = "right";
    pen.fillText(i, LEFT - 6, Math.max(7, (i + 0.5) * cell));
    pen.textAlign = "center";
    pen.fillText(i, LEFT + (i + 0.5) * cell, side + 12);
  }
  const { exact } = shownMap();
  pen.fillText(exact ? "past step, which wrote" : "past step, its input", LEFT + side / 2, side + 32);
  pen.save();
  pen.translate(10, side / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(exact ? "present step, which reads" : "present step, which acts", 0, 0);
  pen.restore();
  const [best] = ranking();
  canvas.setAttribute("aria-label", `Recall map, ${n} by ${n} steps. ` +
    (best ? `Step ${at.time} mostly depends on step ${best.time}, ${percent(best.share)}.` : ""));
}
function ranking() {
  const row = [];
  for (let s = 0; shares && s <= at.time; s++) row.push({ time: s, share: shares(at.time, s) });
  if (byId("others").checked) row.pop();
  return row.sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
}
function drawSources() {
  const list = byId("sources"), map = shownMap();
  list.replaceChildren();
  const present = element("li", null, list, "present");
  picture(element("img", null, present), at.time);
  element("b", `Step ${at.time}, the present`, present);
  element("span", episode().frames.length ? "" : episode().observations[at.time], present);
  if (!shares) return;
  const ranked = ranking();
  for (const { time, share } of ranked.slice(0, STRONGEST)) {
    const item = element("li", null, list);
    const image = element("img", null, item);
    picture(image, time);
    image.alt = `Step ${time}, share ${percent(share)}`;
    const ago = at.time - time;
    const when = ago === 0 ? "the step itself" : ago === 1 ? "1 step ago" : `${ago} steps ago`;
    const text = element("span", null, item);
    element("b", percent(share), text);
    text.append(` step ${time}, ${when}`);
    if (!episode().frames.length) text.append(`: ${episode().observations[time]}`);
    const bar = element("div", null, item, "bar");
    bar.style.width = `${Math.min(100, 100 * Math.abs(share))}%`;
    bar.style.background = css(share < 0 ? "--against" : "--for");
    item.onclick = () => go(time);
  }
  const rest = ranked.slice(STRONGEST).reduce((sum, { share }) => sum + share, 0);
  const before = map.before ? `; what the episode began with: ${percent(map.before[at.time])}` : "";
  byId("rest").textContent = `All other steps together: ${percent(rest)}${before}`;
}
function tell(event) {
  const { cell } = heatSize(), box = byId("heat").getBoundingClientRect();
  const s = Math.floor((event.clientX - box.left - LEFT) / cell);
  const t = Math.floor((event.clientY - box.top) / cell);
  const inside = t >= 0 && t < length() && s >= 0 && s <= t;
  byId("hover").textContent = inside
    ? `Step ${t} on step ${s}: ${percent(shares(t, s))}. A click chooses step ${t}.` : "";
  return inside ? t : null;
}
function drawLegend() {
  const legend = byId("legend");
  legend.replaceChildren("Share: ");
  for (const share of [-1, -0.5, -0.1, 0, 0.1, 0.5, 1]) {
    element("span", null, legend).style.background = `rgb(${colour(share)})`;
    legend.append(` ${percent(share)}  `);
  }
}

// --- how the memory is used ---------------------------------------------------------------------

function memories() { return episode().layers.flatMap((layer) => layer.memories); }

function drawMeasures() {
  const place = byId("measures"), { measures } = memories()[at.memory];
  place.replaceChildren();
  const heads = columns(Object.values(measures)[0]).length;
  byId("heads").replaceChildren(heads > 1 ? "Heads:" : "");
  for (let h = 0; heads > 1 && h < heads; h++) {
    element("b", `${h + 1}`, byId("heads")).style.color = lineColour(h);
  }
  for (const [name, table] of Object.entries(measures)) {
    const figure = element("figure", null, place);
    const now = table[at.time].slice(0, 8).map(digits).join(", ");
    element("figcaption", `${name.replaceAll("_", " ")}: ${data.measures[name]}. Now ${now}`, figure);
    const canvas = element("canvas", null, figure);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name} over time; at step ${at.time}: ${now}`);
    const unit = ["beta", "decay", "key_overlap"].includes(name);
    const most = Math.max(1, ...table.flat().filter((value) => value !== null));
    chart(canvas, columns(table), unit ? { from: 0, to: most } : {});
    seek(canvas);
  }
}

// --- wiring -------------------------------------------------------------------------------------

function drawTime() {
  byId("time").value = at.time;
  byId("now").textContent = `Step ${at.time} of ${length() - 1}`;
  for (const draw of [drawScene, drawChoice, drawHeat, drawSources, drawMeasures]) draw();
}
function go(time) {
  at.time = Math.max(0, Math.min(length() - 1, time));
  drawTime();
}
async function chooseMap(index) {
  at.map = index;
  const map = shownMap();
  byId("remark").textContent = map.remark;
  byId("h-recall").textContent = map.exact
    ? "Recall map: which past steps the present one reads"
    : "Influence: on which past steps the present action depends";
  byId("h-sources").textContent =
    map.exact ? "Where this read comes from" : "Where this action comes from";
  shares = await decode(map);
  drawTime();
}
function chooseEpisode(index) {
  at.episode = index;
  at.time = Math.min(at.time, length() - 1);
  byId("time").max = length() - 1;
  const now = episode();
  byId("about").textContent = [
    `${data.core} memory`, data.steps === null ? null : `after ${data.steps.toLocaleString("en")} steps`,
    data.checkpoint, `seed ${data.seed}`, data.deterministic ? "the most probable action" : "sampled actions",
    `return ${digits(now.return)} in ${length()} steps`, now.ended ? null : "cut before its end",
    now.success === null ? null : now.success ? "solved" : "not solved",
  ].filter((text) => text !== null).join(" · ");
  options(byId("map"), now.maps.map((map) => map.name));
  options(byId("memory"), memories().map((memory) => memory.name));
  at.memory = Math.min(at.memory, memories().length - 1);
  return chooseMap(0);
}
function seek(canvas) {
  const move = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = canvas.getBoundingClientRect();
    go(Math.floor(((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * length()));
  };
  canvas.onpointerdown = canvas.onpointermove = move;
}
let timer = null;
function play() {
  const stop = timer !== null;
  clearInterval(timer);
  timer = stop ? null : setInterval(() => go(at.time + 1 < length() ? at.time + 1 : 0), 350);
  byId("play").textContent = stop ? "▶ Play" : "❚❚ Pause";
}
function keys(event) {
  const time = { ArrowLeft: at.time - 1, ArrowRight: at.time + 1, Home: 0, End: length() - 1 }[event.key];
  if (["SELECT", "INPUT"].includes(event.target.tagName)) return;
  if (event.key === " " && event.target.tagName !== "BUTTON") play();
  else if (time !== undefined) go(time);
  else return;
  event.preventDefault();
}

byId("title").textContent = data.env;
document.title = `${data.env} - fwrl inspect`;
options(byId("episode"), data.episodes.map((_, i) => i + 1));
byId("episodes").hidden = data.episodes.length < 2;
byId("episode").onchange = (event) => chooseEpisode(Number(event.target.value));
byId("map").onchange = (event) => chooseMap(Number(event.target.value));
byId("memory").onchange = (event) => { at.memory = Number(event.target.value); drawMeasures(); };
byId("others").onchange = drawTime;
byId("time").oninput = (event) => go(Number(event.target.value));
byId("play").onclick = play;
byId("heat").onpointermove = tell;
byId("heat").onclick = (event) => { const t = tell(event); if (t !== null) go(t); };
["action", "value", "reward"].forEach((name) => seek(byId(name)));
addEventListener("keydown", keys);
addEventListener("resize", drawTime);
dark.addEventListener("change", () => { drawLegend(); drawTime(); });
drawLegend();
// a page can be opened at a step: report.html#step=20
at.time = Math.max(0, Number(new URLSearchParams(location.hash.slice(1)).get("step")) || 0);
chooseEpisode(0);
