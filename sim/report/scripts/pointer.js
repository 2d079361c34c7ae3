// Says of every curve what is pending at the moment under the pointer, and marks the moment.
if (cb_obj.event_name == "doubletap") {
  x.setv({start: whole[0], end: whole[1]});
  return;
}
const at = Math.min(Math.max(cb_obj.x, whole[0]), whole[1]);
if (!Number.isFinite(at)) return;
const safe = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const exact = (number) => number.toLocaleString("en-US");
const counted = (number, what) => `${exact(number)} ${what}${number == 1 ? "" : "s"}`;
const two = (number) => String(Math.floor(number)).padStart(2, "0");
const clock = (s) =>
  `day ${Math.floor(s / 86400)} ${two((s % 86400) / 3600)}:${two((s % 3600) / 60)}:${two(s % 60)}`;
const lasted = (s) => {
  const [size, unit] = s >= 259200 ? [86400, "d"] : s >= 3600 ? [3600, "h"] : s >= 60 ? [60, "min"] : [1, "s"];
  return `${Number((s / size).toPrecision(3))} ${unit}`;
};
const swatch = (colour, text) => `<span><i style="background:${colour}"></i>${text}</span>`;
const legend = reasons.map(([label, colour]) => swatch(colour, safe(label))).reverse();
head.html = `<p><b>${clock(at)}</b>${legend.join("")}</p>`;
sources.forEach((source, place) => {
  const time = source.data.time_s, last = time.length - 1;
  const [name, jobs, pods, gpus, since] = arms[place];
  marks[place].setv({location: at, visible: true});
  let low = 0, high = last;  // the last row that is not after the moment
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (time[middle] <= at) low = middle; else high = middle - 1;
  }
  if (at > time[last]) {
    said[place].html = `<p><b>${safe(name)}</b>not simulated beyond ${clock(time[last])}</p><p></p>`;
    return;
  }
  const levels_now = levels.map((level) => source.data[level][low]);
  const total = levels_now.length ? levels_now[levels_now.length - 1] : 0;
  const parts = levels_now
    .map((level, k) => [level - (k ? levels_now[k - 1] : 0), ...reasons[k]])
    .filter(([count]) => count > 0)
    .sort((one, other) => other[0] - one[0])
    .map(([count, label, colour]) => swatch(colour, `${exact(count)} ${safe(label)}`));
  const gangs = ["gang_0", "gang_1", "gang_2"]
    .map((column) => source.data[column][low])
    .filter((row) => row >= 0)
    .map((row) => `${safe(jobs[row])} (${counted(gpus[row], "GPU")}, ${counted(pods[row], "pod")}, `
      + `for ${lasted(Math.max(at - since[row], 0))})`);
  said[place].html = `<p><b>${safe(name)}</b>${counted(total, "pod")} pending${parts.join("")}</p>`
    + `<p>${gangs.length ? "largest waiting: " + gangs.join(", ") : ""}</p>`;
});
