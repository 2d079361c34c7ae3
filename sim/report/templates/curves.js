// Puts curves that one can zoom in the place of their still pictures, when these come into sight.
// Where one scrolls with a finger they wait for a tap, so that scrolling stays smooth.
(() => {
  const isTouched = matchMedia("(pointer: coarse)");
  const isDark = matchMedia("(prefers-color-scheme: dark)");
  const explored = new Map();

  // Columns come as differences from row to row.
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text(), (_, value) => {
      if (value === null || !Array.isArray(value.differences)) return value;
      let sum = 0;
      return value.differences.map((difference) => (sum += difference) / value.per);
    });
  }

  function argument(pointer, name) {
    return pointer.args instanceof Map ? pointer.args.get(name) : pointer.args[name];
  }

  function panels(model) {
    return model.children.filter((child) => child.type == "Figure");
  }

  // Axes take their colours from the style of the page; the outline of the curve has its own.
  function paint({model}, figure) {
    const ink = getComputedStyle(figure).color;
    for (const panel of panels(model)) {
      for (const {glyph} of panel.renderers) if (glyph?.type == "Step") glyph.line_color = {value: ink};
      for (const axis of [...panel.below, ...panel.left]) axis.change.emit();
    }
  }

  function atPeak({pointer}) {
    let [at, most] = [argument(pointer, "whole")[0], -1];
    const top = argument(pointer, "levels").at(-1) ?? "floor";
    for (const {data} of argument(pointer, "sources")) {
      data[top].forEach((pods, row) => { if (pods > most) [at, most] = [data.time_s[row], pods]; });
    }
    return at;
  }

  function zoom({time, pointer}, what) {
    const [first, last] = argument(pointer, "whole");
    const mark = argument(pointer, "marks")[0].location;
    const width = time.end - time.start;
    const factor = {in: 0.5, out: 2}[what] ?? 1;
    const middle = what == "in" ? mark : (time.start + time.end) / 2 + ({left: -0.5, right: 0.5}[what] ?? 0) * width;
    const next = what == "all" ? last - first : Math.min(Math.max(width * factor, time.min_interval), last - first);
    const start = Math.min(Math.max(middle - next / 2, first), last - next);
    time.setv({start, end: start + next});
  }

  async function explore(figure) {
    if (explored.has(figure)) return;
    explored.set(figure, null);
    const live = figure.querySelector(".live");
    const item = await unpack(figure.querySelector("script").textContent);
    live.hidden = false;
    figure.classList.add("explored");
    const {roots: [view]} = await Bokeh.embed.embed_item(item, live);
    const named = (name) => view.model.document.get_model_by_name(name);
    const one = {model: view.model, time: named("time"), pointer: named("pointer")};
    explored.set(figure, one);
    for (const panel of panels(one.model)) {
      for (const tool of panel.toolbar.tools) tool.active = !isTouched.matches;
    }
    paint(one, figure);
    await one.pointer.execute({x: atPeak(one)});
    figure.querySelector("[data-do=open]").hidden = true;
    figure.querySelector(".zoom").hidden = false;
    live.dataset.ready = "yes";
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && !isTouched.matches) explore(entry.target);
  }, {rootMargin: "300px"});
  for (const figure of document.querySelectorAll(".curves:has(.live)")) {
    const tools = figure.querySelector(".tools");
    tools.hidden = false;
    tools.addEventListener("click", ({target}) => {
      const what = target.dataset.do;
      if (what == "open") explore(figure);
      else if (what && explored.get(figure)) zoom(explored.get(figure), what);
    });
    near.observe(figure);
  }
  isDark.addEventListener("change", () => explored.forEach((one, figure) => one && paint(one, figure)));
})();
