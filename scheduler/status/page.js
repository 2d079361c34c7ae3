"use strict";
// All names and texts are those of users: they become text nodes, never markup.
const REASONS = JSON.parse(document.getElementById("reasons").textContent);
const SVG = "http://www.w3.org/2000/svg";
const EVERY_MS = 5000; // between looks
const SLICE_MS = 40; // the longest that the map is drawn without a break
const BEYOND = 8; // rows above and below those in sight
const CELL = 14, SIDE = 12, ACROSS = 8; // pixels of a node in the map; nodes of a rack side by side
const MOST_FOUND = 12;

const at = id => document.getElementById(id);
const make = (tag, text, cls) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (cls) node.className = cls;
  return node;
};
const draw = (tag, attributes, text) => {
  const node = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  return node;
};
const number = n => n.toLocaleString("en");
const count = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;
const span = s => s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${(s / 86400).toFixed(1)} d`;
const clock = (unix, withDay) => new Date(1000 * unix).toLocaleString([], { ...(withDay ? { month: "short", day: "numeric" } : {}), hour: "2-digit", minute: "2-digit", ...(withDay ? { second: "2-digit" } : {}), hour12: false });
const words = reason => REASONS[reason]?.label ?? reason;
const sum = values => values.reduce((all, one) => all + one, 0);
const rest = () => new Promise(done => setTimeout(done));

// -- reasons: colours and patterns as reports draw them ------------------------------------------

const LINES = { "/": "M-1,1L1,-1M0,6L6,0M5,7L7,5", "\\": "M-1,5L1,7M0,0L6,6M5,-1L7,1", "|": "M3,-1V7", ".": "M3,3h.01" };
LINES.x = LINES["/"] + LINES["\\"];
for (const [reason, { colour, hatch }] of Object.entries(REASONS)) {
  const tile = draw("pattern", { id: "hatch-" + reason, width: 6, height: 6, patternUnits: "userSpaceOnUse" });
  tile.append(draw("rect", { width: 6, height: 6, fill: colour }), draw("path", { d: LINES[hatch[0]] ?? "", class: hatch[0] === "." ? "dots" : "lines" }));
  at("hatches").append(tile);
}
const paint = reason => reason in REASONS ? `url(#hatch-${reason})` : "none";
const mark = reason => {
  const box = draw("svg", { class: "mark" });
  box.append(draw("rect", { width: "100%", height: "100%", fill: paint(reason) }));
  return box;
};

// -- addresses: #gang=NAMESPACE/NAME, #node=NAME, #namespace=NAME --------------------------------

const linkTo = (kind, name, text) => {
  const link = make("a", text ?? name, kind);
  link.href = `#${kind}=${encodeURIComponent(name)}`;
  return link;
};
function chosen() {
  const said = location.hash.slice(1), cut = said.indexOf("=");
  const kind = said.slice(0, Math.max(cut, 0));
  let name = "";
  try { name = decodeURIComponent(said.slice(cut + 1)); } catch { /* no address of ours */ }
  return ["gang", "node", "namespace"].includes(kind) ? { kind, name } : { kind: name ? "gang" : "", name };
}
function close() {
  history.pushState(null, "", location.pathname + location.search);
  return choose();
}

// -- lists: rows of one height, of which only those in sight are in the page ----------------------

function list(box, body, columns) {
  let items = [], row = () => make("tr");
  const gap = () => {
    const line = make("tr", undefined, "gap"), cell = make("td");
    cell.colSpan = columns; line.ariaHidden = "true"; line.append(cell);
    return line;
  };
  const above = gap(), below = gap();
  function show() {
    const high = parseFloat(getComputedStyle(box).getPropertyValue("--row"));
    const from = Math.min(Math.max(0, Math.floor(box.scrollTop / high) - BEYOND), items.length);
    const to = Math.min(items.length, from + Math.ceil(box.clientHeight / high) + 2 * BEYOND);
    above.firstChild.style.height = `${from * high}px`;
    below.firstChild.style.height = `${(items.length - to) * high}px`;
    const focused = body.contains(document.activeElement) ? document.activeElement.hash : "";
    body.replaceChildren(above, ...items.slice(from, to).map(row), below);
    if (focused) [...body.querySelectorAll("a")].find(a => a.hash === focused)?.focus({ preventScroll: true });
  }
  let asked = 0;
  box.addEventListener("scroll", () => { asked ||= requestAnimationFrame(() => { asked = 0; show(); }); });
  return { set(all, make) { items = all; row = make; show(); }, show };
}
const gangList = list(at("gangs-box"), at("queue"), 7), podList = list(at("pods-box"), at("story-pods"), 5);

// -- what was seen last ---------------------------------------------------------------------------

let seen = null; // the last look, as /now has it
let gangs = [], nodes = []; // of it: rows as objects, and nodes by name
let marked = new Set(); // nodes that the map points out

function read(now) {
  seen = now;
  const column = Object.fromEntries(now.fields.map((name, i) => [name, i]));
  gangs = now.gangs.map(row => ({ row, name: row[column.gang], sought: row[column.gang].toLowerCase(), of: field => row[column[field]] }));
  nodes = now.pools.flatMap(pool => pool.racks.flatMap(rack => rack.nodes.map(node => ({ name: node[0], sought: node[0].toLowerCase(), pool: pool.pool, rack: rack.rack }))));
}

function showHeadline() {
  const pods = sum(Object.values(seen.pods)), waiting = sum(Object.values(seen.waiting));
  const well = seen.phases.running ?? 0, part = seen.phases.degraded ?? 0, ending = seen.phases.ending ?? 0;
  at("headline").textContent = waiting ? `${count(pods, "pod")} of ${count(waiting, "gang")} ${pods === 1 ? "is" : "are"} pending` : "No gang is pending";
  at("sub").textContent = `${count(well, "gang")} ${well === 1 ? "runs" : "run"}` + (part ? `, ${number(part)} in part` : "") + (ending ? `, ${number(ending)} ending` : "") + `; seen at ${new Date(1000 * seen.unix_s).toLocaleTimeString([], { hour12: false })}`;
  document.title = waiting ? `${number(pods)} pending – muster` : "muster";
}

function showGangs() {
  const asked = at("search").value.trim().toLowerCase(), { kind, name } = chosen();
  const fits = asked.endsWith("/") ? g => g.sought.startsWith(asked) : g => g.sought.includes(asked);
  const found = asked ? gangs.filter(fits) : gangs;
  at("gangs-head").textContent = asked ? `Gangs: ${number(found.length)} of ${number(gangs.length)} match “${asked}”` : "Gangs, what waits first";
  gangList.set(found, g => {
    const reason = g.of("reason"), row = make("tr"), cell = make("td", undefined, "name"), why = make("td", undefined, "why"), text = make("div");
    const link = linkTo("gang", g.name);
    link.title = g.name;
    cell.append(link);
    if (reason) text.append(mark(reason), make("strong", words(reason)), ": ", g.of("text"));
    else if (g.of("text") !== "all pods run") text.append(g.of("text"));
    text.title = g.of("text");
    if (text.hasChildNodes()) why.append(text);
    row.classList.toggle("chosen", kind === "gang" && g.name === name);
    const facts = [make("td", g.of("position") ?? "", "n place"), cell, make("td", g.of("phase")), make("td", `${g.of("pods_bound")}/${g.of("pods_total")}`, "n"), make("td", number(g.of("gpus")), "n"), make("td", reason ? span(g.of("waited_s")) : "", "n"), why];
    facts[3].dataset.is = "pods"; facts[4].dataset.is = "GPUs"; facts[5].dataset.is = "waited";
    row.append(...facts);
    return row;
  });
  if (!found.length) {
    const row = make("tr"), cell = make("td", asked ? "no gang has this in its name" : "no gang is known; create one, or see docs/live.md on how gangs are recognised", "why");
    cell.colSpan = 7; row.append(cell); at("queue").replaceChildren(row);
  }
  showFound(asked, found);
}

function showFound(asked, found) {
  const box = at("found");
  box.hidden = !asked;
  if (!asked) return;
  const spaces = new Map();
  for (const g of gangs) { const space = g.name.slice(0, g.name.indexOf("/")); spaces.set(space, (spaces.get(space) ?? 0) + 1); }
  const line = (title, all, link) => {
    const p = make("p", `${title}: `);
    p.append(...all.slice(0, MOST_FOUND).map(link));
    if (all.length > MOST_FOUND) p.append(`and ${number(all.length - MOST_FOUND)} more`);
    return all.length ? [p] : [];
  };
  const fitting = nodes.filter(n => n.sought.includes(asked));
  const within = [...spaces].filter(([space]) => space.toLowerCase().includes(asked.replace(/\/$/, "")));
  const lines = [
    ...line("Gangs", found, g => linkTo("gang", g.name)),
    ...line("Nodes", fitting, n => linkTo("node", n.name)),
    ...line("Namespaces", within, ([space, n]) => linkTo("namespace", space, `${space} (${number(n)})`)),
  ];
  box.replaceChildren(...(lines.length ? lines : [make("p", "No gang, node or namespace has this in its name.")]));
}

// -- panels of one gang and of one node -----------------------------------------------------------

async function ask(path) {
  const reply = await fetch(path), content = await reply.json();
  return reply.ok ? [content, ""] : [null, content.error ?? `${path}: ${reply.status}`];
}

async function choose() {
  const { kind, name } = chosen();
  if (kind === "namespace" && at("search").value !== `${name}/`) at("search").value = `${name}/`;
  at("story").hidden = at("story").hidden || kind !== "gang";
  at("node").hidden = at("node").hidden || kind !== "node";
  if (seen) showGangs();
  if (kind === "gang") await showGang(name);
  else if (kind === "node") await showNode(name);
  else if (marked.size) { marked = new Set(); await showMap(); }
}

async function showGang(name) {
  const cut = name.indexOf("/");
  const [g, error] = await ask(`explain/${encodeURIComponent(name.slice(0, Math.max(cut, 0)) || "-")}/${encodeURIComponent(name.slice(cut + 1))}`);
  if (chosen().name !== name) return; // another one was chosen meanwhile
  at("story-name").textContent = !g ? name : g.phase === "running" ? `${g.gang} runs` : g.phase === "ending" ? `${g.gang} ends` : `${g.gang} is ${g.phase}: ${words(g.reason)}`;
  at("story-text").textContent = !g ? error : g.text + (g.starts_in_s === null ? "" : `; starts within ${span(g.starts_in_s)}, if running gangs keep their walltime`);
  at("advice").replaceChildren(...(g?.advice ?? []).map(line => make("li", line)));
  const now = Date.now() / 1000;
  at("moments").replaceChildren(...(g?.story ?? []).map(m => {
    const row = make("li"), when = make("time", clock(m.unix_s, true));
    when.title = `${span(Math.max(0, now - m.unix_s))} ago`;
    when.dateTime = new Date(1000 * m.unix_s).toISOString();
    row.append(when, make("strong", m.what), make("span", m.text));
    return row;
  }));
  const pods = g?.pods ?? [], on = [...new Set(pods.map(p => p.node).filter(Boolean))].sort();
  at("pods-head").textContent = g ? `Pods: ${g.pods_bound} of ${g.pods_total} bound, ${g.pods_needed} needed` : "Pods";
  at("story-nodes").hidden = !on.length;
  at("story-nodes").replaceChildren(`On ${count(on.length, "node")}: `, ...on.slice(0, MOST_FOUND).map(node => linkTo("node", node)), on.length > MOST_FOUND ? `and ${number(on.length - MOST_FOUND)} more` : "");
  at("story-more").hidden = !g;
  at("story").hidden = false;
  podList.set(pods, p => {
    const row = make("tr"), where = make("td");
    if (p.node) where.append(linkTo("node", p.node));
    row.append(make("td", p.name), make("td", p.role), make("td", p.rank, "n"), make("td", p.state), where);
    row.firstChild.title = p.name;
    return row;
  });
  marked = new Set(on);
  await showMap();
}

async function showNode(name) {
  const [n, error] = await ask(`node/${encodeURIComponent(name)}`);
  if (chosen().name !== name) return;
  at("node-name").textContent = `Node ${name}`;
  const where = n ? [n.pool && `pool ${n.pool}`, n.rack && `rack ${n.rack}`].filter(Boolean) : [];
  at("node-text").textContent = !n ? error : [...where, `${number(n.free_gpus)} of ${count(n.gpus, "GPU")} free`, n.closed].filter(Boolean).join(", ");
  at("node-gangs").replaceChildren(...(n?.gangs ?? []).map(g => {
    const row = make("tr"), cell = make("td");
    cell.append(linkTo("gang", g.gang));
    row.append(cell, make("td", g.phase), make("td", number(g.gpus), "n"), make("td", g.pods.slice(0, MOST_FOUND).join(", ") + (g.pods.length > MOST_FOUND ? ` and ${number(g.pods.length - MOST_FOUND)} more` : "")));
    return row;
  }));
  if (n && !n.gangs.length) { const row = make("tr"), cell = make("td", "no gang has pods here"); cell.colSpan = 4; row.append(cell); at("node-gangs").append(row); }
  at("node-others").textContent = !n?.num_others ? "" : `${count(n.num_others, "pod")} of no gang` + (n.others.length ? `; with GPUs: ${n.others.join(", ")}` : "");
  at("node").hidden = false;
  marked = new Set([name]);
  await showMap();
}

// -- the curve: a step for each change --------------------------------------------------------------

const ticksOf = wide => [60, 300, 900, 1800, 3600, 10800, 21600].find(s => wide / s <= 5) ?? 21600;

function showCurve() {
  const svg = at("curve"), key = at("key"), { curve, reasons } = seen;
  svg.replaceChildren(); key.replaceChildren();
  const width = svg.clientWidth || 960, height = svg.clientHeight || 208, low = height - 22, high = 20;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const totals = curve.map(p => { let all = 0; for (let k = 2; k < p.length; k++) all += p[k]; return all; });
  const top = Math.max(1, ...totals), wide = Math.max(60, curve[0][0]);
  const x = ago => Math.round(10 * (width - 2 - (width - 3) * ago / wide)) / 10, y = v => Math.round(10 * (low - (low - high) * v / top)) / 10;
  for (const v of [0, top / 2, top]) svg.append(draw("line", { x1: 0, x2: width, y1: y(v), y2: y(v) }));
  // a step lasts until the next, or until nobody looked any more; the last is this moment
  const starts = curve.map(p => x(p[0])), ends = curve.map((p, i) => i + 1 < curve.length ? (p[1] === null ? starts[i + 1] : x(p[1])) : width);
  const unknown = curve.map((_, i) => i).filter(i => i + 1 < curve.length && ends[i] < starts[i + 1]);
  for (const i of unknown) svg.append(draw("rect", { x: ends[i], y: high, width: starts[i + 1] - ends[i], height: low - high, class: "unknown" }));
  const below = new Array(curve.length).fill(0);
  reasons.forEach((reason, r) => {
    const parts = [];
    for (let i = 0; i < curve.length;) {
      let up = "", down = "", k = i;
      for (; k < curve.length && (k === i || ends[k - 1] === starts[k]); k++) {
        up += `V${y(below[k] + curve[k][r + 2])}H${ends[k]}`;
        down = `V${y(below[k])}H${starts[k]}` + down;
      }
      parts.push(`M${starts[i]},${y(below[i])}${up}${down}Z`);
      i = k;
    }
    for (let i = 0; i < curve.length; i++) below[i] += curve[i][r + 2];
    svg.append(draw("path", { d: parts.join(""), fill: paint(reason) }));
    const item = make("span");
    item.append(mark(reason), words(reason));
    key.append(item);
  });
  if (unknown.length) {
    const item = make("span"), box = draw("svg", { class: "mark" });
    box.append(draw("rect", { width: "100%", height: "100%", class: "unknown" })); item.append(box, "not recorded"); key.append(item);
  }
  svg.append(draw("text", { x: 0, y: high - 6 }, count(top, "pod")));
  if (top > 1 && top % 2 === 0) svg.append(draw("text", { x: 0, y: y(top / 2) - 4 }, number(top / 2)));
  const now = seen.unix_s, tick = ticksOf(wide), zone = 60 * new Date().getTimezoneOffset();
  for (let t = Math.ceil((now - wide - zone) / tick) * tick + zone; t < now; t += tick) {
    const where = x(now - t);
    svg.append(draw("line", { x1: where, x2: where, y1: low, y2: low + 4 }));
    if (where > 20 && where < width - 60) svg.append(draw("text", { x: where, y: height - 6, "text-anchor": "middle" }, clock(t)));
  }
  svg.append(draw("text", { x: width, y: height - 6, "text-anchor": "end" }, "now"));
  const last = totals[totals.length - 1];
  svg.setAttribute("aria-label", `pending pods of the last ${span(wide)}: at most ${number(top)}, now ${number(last)}`);
  if (!reasons.length) key.prepend(make("span", `no pod was pending in the last ${span(wide)}`));
}

function showTip(event) {
  const tip = at("tip"), svg = at("curve");
  svg.querySelector(".at")?.remove();
  if (event.type === "pointerleave" || !seen) { tip.hidden = true; return; }
  const box = svg.getBoundingClientRect(), { curve, reasons } = seen, wide = Math.max(60, curve[0][0]);
  const ago = Math.max(0, wide * (1 - (event.clientX - box.left + 2) / box.width));
  let i = curve.length - 1;
  while (i > 0 && curve[i][0] > ago) i--;
  while (i + 1 < curve.length && curve[i + 1][0] >= ago) i++;
  const p = curve[i], known = p[0] >= ago && (p[1] === null || p[1] <= ago);
  const said = known ? reasons.flatMap((reason, r) => { const row = make("div"); row.append(mark(reason), `${number(p[r + 2])} ${words(reason)}`); return p[r + 2] ? [row] : []; }) : [make("div", "not recorded")];
  tip.replaceChildren(make("div", ago < wide / 400 ? "now" : `${clock(seen.unix_s - ago)}, ${span(ago)} ago`), ...(said.length ? said : [make("div", "no pod was pending")]));
  tip.hidden = false;
  const to = event.clientX - box.left;
  tip.style.left = `${Math.max(0, Math.min(to + 12, box.width - tip.offsetWidth))}px`;
  svg.append(draw("line", { x1: to, x2: to, y1: 0, y2: box.height, class: "at" }));
}

// -- the nodes: a square each, by pool and rack ------------------------------------------------------

const levelOf = ([, gpus, free, closed]) => closed === "cordoned" ? "cordoned" : closed ? "down" : !gpus ? "none" : free === gpus ? "u0" : free <= 0 ? "u8" : `u${Math.min(7, Math.max(1, Math.round(8 * (1 - free / gpus))))}`;

function showNodesText() {
  const all = seen.pools.flatMap(pool => pool.racks.flatMap(rack => rack.nodes)), open = all.filter(n => !n[3]);
  const has = sum(all.map(n => n[1])), free = sum(open.map(n => n[2])), whole = open.filter(n => n[1] && n[2] === n[1]).length;
  const cordoned = all.filter(n => n[3] === "cordoned").length, down = all.length - open.length - cordoned;
  at("nodes-text").textContent = `${number(free)} of ${number(has)} GPUs are free, ${number(whole)} of ${number(all.length)} nodes are free whole` + (cordoned ? `, ${number(cordoned)} cordoned` : "") + (down ? `, ${number(down)} not ready` : "");
  const waiting = seen.shapes.waiting;
  at("fragmentation").textContent = waiting.length && free ? "Share of the free GPUs that waiting gangs cannot use: " + waiting.slice(0, 4).map(s => `${s.pods} × ${count(s.gpus_per_pod, "GPU")} ${Math.round(100 * s.fragmentation_ratio)} %`).join(", ") : "";
  const swatch = (level, said) => {
    const item = make("span"), box = draw("svg", { class: "mark" });
    box.append(draw("rect", { width: "100%", height: "100%", class: level })); item.append(box, said);
    return item;
  };
  at("nodes-key").replaceChildren(swatch("u0", "free"), swatch("u4", "half in use"), swatch("u8", "full"), ...(cordoned ? [swatch("cordoned", "cordoned")] : []), ...(down ? [swatch("down", "not ready")] : []));
}

function drawRack(svg, members, across) {
  const paths = {};
  const add = (cls, d) => { (paths[cls] ??= []).push(d); };
  members.forEach((node, i) => {
    const left = 1 + CELL * (i % across), top = 1 + CELL * Math.floor(i / across), level = levelOf(node);
    add(level, `M${left},${top}h${SIDE}v${SIDE}h-${SIDE}z`);
    if (level === "cordoned" || level === "down") add("stroke", `M${left},${top + SIDE}l${SIDE},-${SIDE}` + (level === "down" ? `M${left},${top}l${SIDE},${SIDE}` : ""));
    if (marked.has(node[0])) add("here", `M${left},${top}h${SIDE}v${SIDE}h-${SIDE}z`);
  });
  const wide = CELL * Math.min(across, members.length) + 2, tall = CELL * Math.ceil(members.length / across) + 2;
  for (const [k, v] of Object.entries({ width: wide, height: tall, viewBox: `0 0 ${wide} ${tall}` })) svg.setAttribute(k, v);
  svg.replaceChildren(...["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "none", "cordoned", "down", "stroke", "here"].filter(cls => paths[cls]).map(cls => draw("path", { class: cls, d: paths[cls].join("") })));
}

let plan = "", drawnRacks = [], mapRun = 0; // what the map's frame was made for; its racks; the run that draws
async function showMap() {
  if (!seen) return;
  const run = ++mapRun, map = at("map"), wide = Math.max(ACROSS, Math.floor((map.clientWidth - 2) / CELL));
  const frame = JSON.stringify([wide, seen.pools.map(p => [p.pool, p.racks.map(r => [r.rack, r.nodes.length])])]);
  if (frame !== plan) {
    plan = frame; drawnRacks = [];
    const pools = seen.pools.map(pool => {
      const box = make("div"), racks = make("div", undefined, "racks"), all = sum(pool.racks.map(r => r.nodes.length));
      racks.append(...pool.racks.map(rack => {
        const figure = make("figure", undefined, "rack"), svg = draw("svg", {}), across = pool.racks.length > 1 ? Math.min(wide, ACROSS * Math.ceil(Math.sqrt(rack.nodes.length) / 16)) : wide;
        if (pool.racks.length > 1 || rack.rack) { const name = make("figcaption", rack.rack || "no rack label"); name.title = rack.rack; figure.append(name); }
        figure.style.width = `${CELL * Math.min(across, rack.nodes.length) + 2}px`;
        if (figure.firstChild) figure.style.minWidth = `${CELL * Math.min(across, 6)}px`;
        figure.append(svg);
        drawnRacks.push({ svg, across, was: "" });
        return figure;
      }));
      box.append(make("h3", `${pool.pool ? `Pool ${pool.pool}` : "No pool label"}: ${count(all, "node")}` + (pool.racks.length > 1 ? `, ${count(pool.racks.length, "rack")}` : "")), racks);
      return box;
    });
    map.replaceChildren(...pools, at("map-tip"));
  }
  let began = performance.now();
  const members = seen.pools.flatMap(pool => pool.racks.map(rack => rack.nodes));
  for (let i = 0; i < drawnRacks.length; i++) {
    const rack = drawnRacks[i], is = members[i].map(n => `${n}${marked.has(n[0]) ? "!" : ""}`).join(";");
    if (rack.was !== is) { rack.was = is; rack.nodes = members[i]; rack.svg.rack = rack; drawRack(rack.svg, members[i], rack.across); }
    if (performance.now() - began > SLICE_MS) { await rest(); if (run !== mapRun) return; began = performance.now(); }
  }
}

function nodeAt(event) {
  const svg = event.target.closest?.("svg"), rack = svg?.rack;
  if (!rack) return null;
  const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
  const column = Math.floor(((event.clientX - box.left) * scale - 1) / CELL), line = Math.floor(((event.clientY - box.top) * scale - 1) / CELL);
  return column >= 0 && column < rack.across ? rack.nodes[line * rack.across + column] ?? null : null;
}
function showNodeTip(event) {
  const tip = at("map-tip"), node = event.type === "pointerleave" ? null : nodeAt(event);
  tip.hidden = !node;
  if (!node) return;
  const [name, gpus, free, closed] = node, box = at("map").getBoundingClientRect();
  tip.textContent = `${name}: ${number(free)} of ${count(gpus, "GPU")} free${closed ? `, ${closed}` : ""}`;
  tip.style.left = `${Math.max(0, Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth))}px`;
  tip.style.top = `${event.clientY - box.top + 16}px`;
}

// -- looking --------------------------------------------------------------------------------------

async function look() {
  try {
    const reply = await fetch("now");
    if (!reply.ok) throw new Error(`now: ${reply.status}`);
    read(await reply.json());
    await rest();
    showHeadline(); showGangs();
    await rest();
    showCurve();
    await rest();
    showNodesText();
    await showMap();
    const { kind, name } = chosen();
    if (kind === "gang") await showGang(name);
    else if (kind === "node") await showNode(name);
    document.body.dataset.ready = "yes";
  } catch (error) {
    at("sub").textContent = `muster does not answer: ${error.message}` + (seen ? `; this is what was seen at ${clock(seen.unix_s)}` : "");
  }
}
async function keepLooking() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise(done => setTimeout(done, EVERY_MS));
  }
}

for (const kind of ["pointermove", "pointerdown", "pointerleave"]) {
  at("curve").addEventListener(kind, showTip);
  at("map").addEventListener(kind, showNodeTip);
}
at("map").addEventListener("click", event => { const node = nodeAt(event); if (node) location.hash = `#node=${encodeURIComponent(node[0])}`; });
at("search").addEventListener("input", () => {
  if (chosen().kind === "namespace") history.replaceState(null, "", location.pathname + location.search);
  if (seen) { at("gangs-box").scrollTop = 0; showGangs(); }
});
at("search").addEventListener("keydown", event => { if (event.key === "Enter") at("found").querySelector("a")?.click(); });
for (const id of ["close", "close-node"]) at(id).onclick = close;
addEventListener("keydown", event => { if (event.key === "Escape" && event.target !== at("search") && chosen().kind) close(); });
addEventListener("hashchange", async () => {
  await choose();
  const open = [at("story"), at("node")].find(panel => !panel.hidden);
  open?.scrollIntoView({ block: "nearest" });
});
addEventListener("resize", () => { if (seen) { showCurve(); gangList.show(); podList.show(); showMap(); } });
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
choose();
keepLooking();
