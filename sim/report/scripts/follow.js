// The axis of pods ends where the highest curve within the time shown does, the same for all.
let most = 1;
for (const source of sources) {
  const time = source.data.time_s, pods = source.data[top];
  for (let row = 0; row + 1 < time.length; row++) {
    if (time[row] < cb_obj.end && time[row + 1] > cb_obj.start && pods[row] > most) most = pods[row];
  }
}
y.end = most * 1.06;
