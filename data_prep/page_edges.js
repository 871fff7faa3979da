// The ticks of a logarithmic axis: as fine as fit, at numbers that are easy to read.
function logTicks(low, high) {
  const most = narrow() ? 5 : 9, decades = [];
  for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++) decades.push(10 ** k);
  const every = (steps) => decades.flatMap((decade) => steps.map((step) => step * decade))
    .filter((tick) => low <= tick && tick <= high);
  const choices = [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 3, 5], [1, 2, 5], [1, 3], [1]].map(every);
  const tickvals = choices.find((ticks) => ticks.length <= most) ??
    choices.at(-1).filter((_, i) => i % 2 === 0);
  const ticktext = tickvals.map((tick) => tick < 1e5 ? count(tick) : compact(tick));
  return {type: "log", tickmode: "array", tickvals, ticktext,
    range: [Math.log10(low), Math.log10(high)]};
}
const compact = (n) => new Intl.NumberFormat("en-US", {notation: "compact"}).format(n);
// Draws a dot for each edge of the ontology in #edges. Edges have child, parent, x (a number above
// 0), y (a share), color, text, and rank: the edges of the highest rank are named.
function drawEdgePlot(edges, xTitle, yTitle) {
  const x = edges.map((e) => e.x);
  const low = Math.min(...x) / 1.4, high = Math.max(...x) * 1.4;
  const marks = {
    type: "scatter", mode: "markers", x, y: edges.map((e) => e.y),
    marker: {size: 9, opacity: 0.85, color: edges.map((e) => e.color),
      line: {width: 0.7, color: color("soft")}},
    text: edges.map((e) => `<b>${escape(e.child)}</b> → ${escape(e.parent)}<br>${e.text}`),
    hovertemplate: "%{text}<extra></extra>",
  };
  const around = layout({
    margin: {l: 12, r: 20, t: 18, b: 12}, showlegend: false,
    xaxis: {...logTicks(low, high), title: {text: xTitle}},
    yaxis: {title: {text: narrow() ? "" : yTitle}, tickformat: ".0%", range: [-0.06, 1.06]},
  });
  // The labels need the pixels of the dots, which are known after the first drawing.
  Plotly.react("edges", [marks], around, options).then((plot) =>
    Plotly.relayout("edges", {annotations: edgeLabels(edges, plot._fullLayout)}));
}
// Names the edges of the highest rank where the name hits no dot and no other name.
function edgeLabels(edges, {xaxis, yaxis}) {
  const at = (e) => [xaxis.l2p(Math.log10(e.x)), yaxis.l2p(e.y)];
  const taken = edges.map(at).map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
  const brush = element("canvas").getContext("2d"), size = 12, labels = [];
  brush.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  const isFree = (box) => box[0] > 2 && box[1] > 2 && box[2] < xaxis._length - 2 &&
    box[3] < yaxis._length - 2 && taken.every((other) => box[0] > other[2] || other[0] > box[2] ||
      box[1] > other[3] || other[1] > box[3]);
  for (const e of edges.slice().sort((a, b) => b.rank - a.rank).slice(0, 30)) {
    const text = e.child + (narrow() ? "" : ` → ${e.parent}`), [x, y] = at(e);
    const half = brush.measureText(text).width / 2 + 5;
    const box = (dx, dy) => [x + dx - half, y + dy - 10, x + dx + half, y + dy + 10];
    const places = [18, 34].flatMap((far) => [[0, -far], [0, far], [half + far - 8, 0],
      [-half - far + 8, 0], [half, -far], [-half, -far], [half, far], [-half, far]]);
    const place = places.find(([dx, dy]) => isFree(box(dx, dy)));
    if (!place) continue;
    taken.push(box(...place));
    labels.push({x: Math.log10(e.x), y: e.y, ax: place[0], ay: place[1],
      text: escape(text), showarrow: true, arrowhead: 0, arrowwidth: 1, standoff: 5,
      arrowcolor: color("soft"), font: {size, color: color("ink")}});
    if (labels.length === (narrow() ? 5 : 10)) break;
  }
  return labels;
}
