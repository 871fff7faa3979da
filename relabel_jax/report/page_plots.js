// The plots. Bases differ in dash and symbol, too, not only in colour.
const style = (labeling) => {
  const ofPaper = {
    ol: ["amber", "solid", "circle"], pel: ["violet", "dash", "diamond"],
    pe_cml: ["teal", "dot", "square"],
  };
  const others = [["blue", "dashdot", "triangle-up"], ["rose", "longdash", "cross"],
    ["soft", "longdashdot", "pentagon"]];
  const rest = LABELINGS.filter((l) => !(l in ofPaper));
  const [tint, dash, symbol] = ofPaper[labeling] ?? (labeling === "" ?
    ["soft", "longdashdot", "x"] : others[rest.indexOf(labeling) % others.length]);
  return {color: color(tint), dash, symbol};
};
function controls(id, choices, draw) {
  const selects = {};
  for (const [name, title, values, titles] of choices) {
    const label = element("label", title), select = element("select");
    select.id = `${id}-${name}`;
    fill(select, values, values.map((value) => titles ? titles[value] : value));
    select.addEventListener("change", draw);
    label.append(select);
    byId(`${id}-controls`).append(label);
    selects[name] = select;
  }
  return () => Object.fromEntries(Object.entries(selects).map(([k, select]) => [k, select.value]));
}
const labelings = LABELINGS.filter((l) => data.classes.some((group) => group.labeling === l));

const chosenCurves = controls("curve", [
  ["root", "Root", unique(data.curves.map((c) => c.root))],
  ["method", "Method", ["finetune", "features", "base", "scratch"].filter((method) =>
    data.curves.some((c) => c.method === method)), METHODS],
  ["labeling", "Labels", LABELINGS.filter((l) => data.curves.some((c) => c.labeling === l)), TITLES],
  ["field", "Show", ["validation_mAP", "train_loss"],
    {validation_mAP: "validation mAP", train_loss: "training loss"}],
], drawCurves);
// The distance of the ticks of an axis from 1 to `last`: 1, 2, 5, 10, 20 and so on.
function wholeStep(last) {
  const most = narrow() ? 6 : 12;
  for (let power = 1; ; power *= 10) {
    for (const step of [power, 2 * power, 5 * power]) if (last / step <= most) return step;
  }
}
function drawCurves() {
  const {root, method, labeling, field} = chosenCurves(), named = new Set();
  // Base trainings have no base: their own labelings are compared, and the choice of one is moot.
  const isBase = method === "base";
  byId("curve-labeling").disabled = isBase;
  const labelsOf = (c) => isBase ? c.labeling : c.base_labeling;
  const shown = data.curves.filter((c) => c.root === root &&
    (c.method === method || !isBase && c.method === "scratch" && method === "finetune") &&
    (isBase || c.labeling === labeling))
    .sort((a, b) => LABELINGS.indexOf(labelsOf(a)) - LABELINGS.indexOf(labelsOf(b)));
  Plotly.react("curves", shown.map((c) => {
    const of = labelsOf(c), {color, dash, symbol} = style(of);
    const isNamed = named.has(of);
    named.add(of);
    return {
      type: "scatter", mode: "lines+markers", x: c.epoch, y: c[field], name: TITLES[of],
      legendgroup: of, showlegend: !isNamed, line: {color, dash, width: 2},
      marker: {color, symbol, size: c.epoch.map((epoch) => epoch === c.best_epoch ? 9 : 0.1)},
      hovertemplate: `<b>${TITLES[of]}</b>, seed ${c.seed}<br>epoch %{x}: %{y:.4f}<extra></extra>`,
    };
  }), layout({
    xaxis: {title: {text: "epoch"}, dtick: wholeStep(Math.max(1, ...shown.flatMap((c) => c.epoch)))},
    yaxis: {rangemode: "tozero",
    title: {text: narrow() ? "" : field === "train_loss" ? "training loss" : "validation mAP"}},
  }), options);
}

const chosenClasses = controls("class", [
  ["root", "Root", unique(data.classes.map((group) => group.root))],
  ["method", "Method", unique(data.classes.map((group) => group.method)), METHODS],
  ["labeling", "Target labels", labelings, TITLES],
], drawClasses);
function drawClasses() {
  const {root, method, labeling} = chosenClasses();
  const group = data.classes.find((g) =>
    g.root === root && g.method === method && g.labeling === labeling);
  const precision = group ? group.average_precision : {};
  const traces = OTHERS.filter((base) => precision[base] && precision.ol).map((base) => {
    const kept = group.mids.map((_, i) => i).filter((i) =>
      precision.ol[i] !== null && precision[base][i] !== null);
    const {color: tint, symbol} = style(base);
    return {
      type: "scatter", mode: "markers", name: `${TITLES[base]} base`,
      x: kept.map((i) => precision.ol[i]), y: kept.map((i) => precision[base][i]),
      marker: {size: 9, opacity: 0.8, color: tint, symbol, line: {width: 0.7, color: color("card")}},
      text: kept.map((i) => `<b>${escape(data.names[group.mids[i]])}</b><br>` +
        LABELINGS.filter((l) => precision[l]).map((l) =>
          `${TITLES[l]} ${score(precision[l][i])}`).join(", ") +
        `<br>${group.positives[i]} test clips`),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  Plotly.react("classes", traces, layout({
    xaxis: {title: {text: "AP from the OL base"}, range: [-0.03, 1.03]},
    yaxis: {title: {text: narrow() ? "" : "AP from the other base"}, range: [-0.03, 1.03]},
    shapes: [{type: "line", x0: 0, y0: 0, x1: 1, y1: 1, layer: "below",
      line: {color: color("soft"), width: 1, dash: "dot"}}],
  }), options);
}

// An interval for each base and method, below the name of its target.
function drawGains() {
  const series = ["features", "finetune"].flatMap((method) => OTHERS.map((base) => ({
    method, base, paper: data.paper.table4[method],
    rows: transfers.filter((row) => row.method === method && row.base_labeling === base &&
      row.difference !== null),
  }))).filter((each) => each.rows.length);
  const target = (row) => `${row.root}/${row.labeling}`;
  const first = new Map(series.flatMap((each) => each.rows).map((row) => [target(row), row]));
  const targets = [...first.values()].sort((a, b) => a.train_clips - b.train_clips);
  const group = series.length + 1.5;
  const yOf = (row, i) => group * targets.indexOf(first.get(target(row))) + 1 + i;
  const traces = series.map(({method, base, rows}, i) => {
    const {color, symbol} = style(base);
    return {
      type: "scatter", mode: "markers", name: `${TITLES[base]}, ${METHODS[method]}`,
      x: rows.map((row) => row.difference), y: rows.map((row) => yOf(row, i)),
      error_x: {type: "data", symmetric: false, color, thickness: 1.5, width: 3,
        array: rows.map((row) => (row.high ?? row.difference) - row.difference),
        arrayminus: rows.map((row) => row.difference - (row.low ?? row.difference))},
      marker: {color, symbol: method === "features" ? symbol + "-open" : symbol, size: 10},
      text: rows.map((row) => `<b>${escape(row.root)}</b>, ${TITLES[row.labeling]} labels<br>` +
        `${count(row.train_clips)} training clips<br>${signed(row.difference)}` +
        (row.low === null ? "" : ` [${signed(row.low)}, ${signed(row.high)}]`)),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  const points = series.flatMap(({method, base, paper, rows}, i) => rows.flatMap((row) => {
    const figures = paper[row.root]?.[row.labeling] ?? {};
    const isKnown = [figures[base], figures.ol].every((x) => x !== null && x !== undefined);
    return isKnown ? [{x: figures[base] - figures.ol, y: yOf(row, i), method, row}] : [];
  }));
  for (const [method, symbol] of [["features", "star-open"], ["finetune", "star"]]) {
    const shown = points.filter((point) => point.method === method);
    if (shown.length) traces.push({
      type: "scatter", mode: "markers", name: `paper, ${METHODS[method]}`,
      x: shown.map((point) => point.x), y: shown.map((point) => point.y),
      marker: {color: color("soft"), symbol, size: 11},
      text: shown.map(({x, row}) => `<b>${escape(row.root)}</b>, ${TITLES[row.labeling]} labels, ` +
        `${TITLES[row.base_labeling]} base<br>${signed(x)}`),
      hovertemplate: "%{text}<extra>paper</extra>",
    });
  }
  Plotly.react("gains", traces, layout({
    height: 150 + 22 * group * targets.length,
    xaxis: {title: {text: "difference in mAP"}, zeroline: true, zerolinecolor: color("soft"),
      nticks: narrow() ? 5 : 9},
    yaxis: {visible: false, range: [group * targets.length - 0.4, -0.9], fixedrange: true},
    annotations: targets.map((row, i) => ({
      xref: "paper", x: 0, xanchor: "left", y: group * i, showarrow: false, align: "left",
      text: `<b>${escape(row.root)}</b>,${narrow() ? "<br>" : " "}${TITLES[row.labeling]} labels, ` +
        `${count(row.train_clips)} clips`,
      bgcolor: color("card"), font: {color: color("ink"), size: 13},
    })),
  }), options);
}

// PE-CML comes first, because the paper proposes it.
const treeBases = OTHERS.filter((base) => data.classes.some((g) => g.average_precision[base]))
  .sort((a, b) => (b === "pe_cml") - (a === "pe_cml"));
const chosenTree = controls("tree", [
  ["base", "Base", treeBases.length ? treeBases : OTHERS, TITLES],
  ["method", "Method", unique(data.classes.map((group) => group.method)), METHODS],
  ["labeling", "Target labels", labelings, TITLES],
], drawTree);
function drawTree() {
  const {base, method, labeling} = chosenTree(), gains = {}, positives = {};
  for (const group of data.classes) {
    if (group.method !== method || group.labeling !== labeling) continue;
    const {ol, [base]: other} = group.average_precision;
    group.mids.forEach((mid, i) => {
      positives[mid] = group.positives[i];
      if (ol && other && ol[i] !== null && other[i] !== null) gains[mid] = other[i] - ol[i];
    });
  }
  const nodes = data.tree, sizes = Object.values(gains).map(Math.abs).sort((a, b) => a - b);
  const reach = sizes.length ? Math.max(sizes[Math.floor(0.9 * (sizes.length - 1))], 0.001) : 1;
  byId("worse").textContent = `−${reach.toFixed(2)}`;
  byId("better").textContent = `+${reach.toFixed(2)}`;
  const shade = (mid) => mid in gains
    ? mixed(Math.min(1, Math.max(0, 0.5 + gains[mid] / reach / 2))) : color("neutral");
  const several = {};
  for (const node of nodes) several[node.mid] = (several[node.mid] ?? 0) + 1;
  drawTreemap(nodes.map((n) => ({
    ...n, name: data.names[n.mid], color: shade(n.mid),
    value: Math.sqrt((positives[n.mid] ?? 0) / several[n.mid]) + 0.3,
    details: [n.mid in gains ? signed(gains[n.mid]) : "no average precision",
      count(positives[n.mid] ?? 0)],
  })), "<b>%{label}</b><br>%{customdata[0]}<br>%{customdata[1]} test clips");
}
watchTables();
keepDrawn(() => { drawCurves(); drawClasses(); drawGains(); drawTree(); });
