// A moment of the run on an axis, as sim.report.ticks.time_label says it.
const step = ticks.length > 1 ? ticks[1] - ticks[0] : 86400;
if (step >= 86400) return `day ${Math.round(tick / 86400)}`;
if (step < 1) return `${Number(tick.toPrecision(6))} s`;
const at = Math.round(tick);
if (at % 86400 == 0) return `day ${at / 86400}`;
const two = (n) => String(Math.floor(n)).padStart(2, "0");
const clock = `${two((at % 86400) / 3600)}:${two((at % 3600) / 60)}`;
const exact = step < 60 ? `${clock}:${two(at % 60)}` : clock;
return index == 0 ? `day ${Math.floor(at / 86400)} ${exact}` : exact;
