// The headline, the tables and the last section of the report's page.
const LABELINGS = data.labelings;
const TITLES = {...data.titles, "": "scratch", truth: "the truth"};
const METHODS = {features: "features", finetune: "fine-tuning", scratch: "scratch", base: "base"};
const unique = (values) => [...new Set(values)];
const score = (x) => x === null ? "–" : x.toFixed(4);
const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(4);
const transfers = data.table4;
// The labelings of the bases that are compared with the base with original labels.
const OTHERS = unique(data.wins.map((win) => win.base_labeling));

// The headline, the paragraph below it and the tiles.
const counted = data.wins.filter((w) => w.comparisons);
const headline = byId("headline");
const sum = (key) => counted.reduce((total, win) => total + win[key], 0);
const [comparisons, gains, losses] =
  ["comparisons", "significant_wins", "significant_losses"].map(sum);
const mark = (text, name) => {
  const made = element("b", text);
  made.className = name;
  return made;
};
if (!comparisons) headline.textContent = "Nothing to compare yet";
else if (!gains && !losses) {
  headline.textContent = "No re-labelled base differs from the original one beyond chance";
} else if (gains && losses) {
  headline.append("Re-labelled bases transfer better in ", mark(gains, "up"), " and worse in ",
    mark(losses, "down"), ` of ${comparisons} comparisons, beyond chance`);
} else {
  headline.append(`Re-labelled bases transfer ${gains ? "better" : "worse"} in `,
    mark(`${gains || losses} of ${comparisons}`, gains ? "up" : "down"),
    " comparisons, beyond chance");
}
const seeds = unique(data.runs.map((run) => run.seed)).length;
const limit = `p ${gains || losses ? "below" : "of at least"} ${data.significant_p} with Holm's ` +
  "correction";
byId("lead").textContent = (comparisons ?
  `Their mAP is higher in ${sum("wins")} of ${comparisons} comparisons. ` + (gains || losses ?
    `The choice of test clips explains all of the differences but ${gains} gains and ` +
    `${losses} losses` : "The choice of test clips alone can explain every difference") +
  ` (${limit}). ` : "") + `${count(data.runs.length)} finished runs, ` +
  (seeds > 1 ? `${seeds} seeds.` : "one seed: another seed may change each figure.");
for (const win of counted) {
  const [more, less] = [win.significant_wins, win.significant_losses];
  addTile(`${win.wins} of ${win.comparisons}`, `${TITLES[win.base_labeling]} above OL, ` +
    `${METHODS[win.method]}; ` +
    (more || less ? `beyond chance ${more} above, ${less} below` : "none beyond chance") +
    (win.paper_comparisons ? `; paper ${win.paper_wins} of ${win.paper_comparisons}` : ""));
}

// Tables.
const isSignificant = (row) => row.p_holm !== null && row.p_holm < data.significant_p;
const columnTitle = (base) => base ? `${TITLES[base]} base` : "scratch";
// A cell of Table III or IV, scored on the labels `form`, or on the row's own labels for "".
function cell(row, label, form) {
  const made = element("td"), facts = element("div");
  made.dataset.key = [row.root, row.labeling, row.method ?? "base", row.base_labeling ?? ""]
    .join("/");
  made.dataset.label = label;
  const note = (text) => facts.append(element("small", text));
  facts.append(element("b", score(form ? row["mAP_on_" + form] : row.mAP)));
  if (!form) {
    if (row.mAP_sd !== null) note(`± ${row.mAP_sd.toFixed(4)}`);
    if ((row.difference ?? null) !== null) {
      const isSure = isSignificant(row);
      note(signed(row.difference) + (isSure ? " *" : ""));
      if (isSure) facts.lastChild.className = row.difference > 0 ? "up" : "down";
      if (row.low !== null) {
        note(`[${signed(row.low)}, ${signed(row.high)}]`);
        note(`p ${row.p_holm < 0.001 ? "< 0.001" : row.p_holm.toFixed(3)}`);
      }
    }
    if (row.paper !== null) {
      note(`paper ${row.paper.toFixed(3)}` +
        (row.minus_paper === null ? "" : ` (${signed(row.minus_paper)})`));
    }
  }
  made.append(facts);
  return made;
}
// Draws a table. Each line has a title, the title of its labels or "", and its cells as [row, title
// of the column]. Lines without a result are named below the table.
function drawTable(id, corner, lines, form) {
  const head = element("tr"), body = element("tbody"), top = element("thead"), empty = new Map();
  head.append(element("th", corner), ...lines[0].cells.map(([, label]) => element("th", label)));
  for (const {title, labels, cells} of lines) {
    if (cells.every(([row]) => row.mAP === null)) {
      empty.set(title, [...empty.get(title) ?? [], labels]);
      continue;
    }
    const line = element("tr"), name = element("th", title);
    if (labels) name.append(element("small", `${labels} labels`));
    line.append(name, ...cells.map(([row, label]) => cell(row, label, form)));
    body.append(line);
  }
  top.append(head);
  byId(id).replaceChildren(top, body);
  byId(id).parentElement.hidden = !body.children.length;
  const without = [...empty].map(([title, notes]) =>
    title + (notes[0] ? ` (${notes.join(", ")} labels)` : ""));
  byId(`${id}-empty`).textContent = without.length ? `No results: ${without.join("; ")}.` : "";
  // The blocks of a phone are no table to a screen reader without these roles.
  for (const [selector, role] of [["thead, tbody", "rowgroup"], ["tr", "row"], ["td", "cell"],
    ["thead th", "columnheader"], ["tbody th", "rowheader"]]) {
    for (const each of byId(id).querySelectorAll(selector)) each.setAttribute("role", role);
  }
  byId(id).setAttribute("role", "table");
}
function fill(select, values, titles) {
  select.replaceChildren(...values.map((value, i) => {
    const made = element("option", titles[i]);
    made.value = value;
    return made;
  }));
}
const forms = [...LABELINGS, "truth"].filter((form) =>
  transfers.some((row) => row["mAP_on_" + form] !== null));
fill(byId("scored"), ["", ...forms], ["its own labels", ...forms.map((form) =>
  form === "truth" ? "the truth" : `${TITLES[form]} labels`)]);
byId("scored").addEventListener("change", () => drawTables());
const HALVES = [["table4-features", (row) => row.method === "features"],
  ["table4-finetune", (row) => row.method !== "features"]];
function drawTables() {
  for (const [id, isOfHalf] of HALVES) {
    const lines = new Map();
    for (const row of transfers.filter(isOfHalf)) {
      const key = `${row.root}/${row.labeling}`;
      if (!lines.has(key)) {
        lines.set(key, {title: row.root, labels: TITLES[row.labeling], cells: []});
      }
      lines.get(key).cells.push([row, columnTitle(row.base_labeling)]);
    }
    drawTable(id, "Root, target labels", [...lines.values()], byId("scored").value);
  }
}
drawTables();
drawTable("table3", "Root", unique(data.table3.map((row) => row.root)).map((root) => ({
  title: root, labels: "",
  cells: data.table3.filter((row) => row.root === root)
    .map((row) => [row, `${TITLES[row.labeling]} labels`]),
})), "");
{
  const head = element("tr"), body = element("tbody"), top = element("thead");
  for (const title of ["Root", "Side", "Labels", "Clips", "Train", "Validation", "Test",
    "Label set", "Per test clip", "Masked"]) {
    head.append(element("th", title));
  }
  const fixed = (x, digits) => x === null ? "–" : x.toFixed(digits);
  const share = (row, field, percent) =>
    count(row[field]) + (row[percent] === null ? "" : ` (${fixed(row[percent], 0)}%)`);
  for (const row of data.table1) {
    const line = element("tr");
    const counted = (field, percent) => {
      const made = element("td", share(row, field, percent));
      if (row[`paper_${field}`] !== null) {
        const printed = share(row, `paper_${field}`, `paper_${percent}`);
        made.append(element("small", `paper ${printed}`));
      }
      return made;
    };
    const number = (text) => element("td", text);
    line.append(element("th", row.root), number(row.side), number(TITLES[row.labeling]),
      counted("clips", "share_percent"), number(count(row.train_clips)),
      number(count(row.validation_clips)), number(count(row.test_clips)),
      counted("labels", "labels_percent"), number(fixed(row.labels_per_test_clip, 2)),
      number(fixed(row.masked_per_test_clip, 1)));
    body.append(line);
  }
  top.append(head);
  byId("table1").append(top, body);
}

// Where it comes from.
{
  const made = byId("made"), from = data.provenance;
  if (from.command) made.append(element("pre", from.command));
  else made.append(element("p", "The command is not on record: these runs were no grid."));
  for (const facts of [from.versions, from.hardware]) {
    if (facts) made.append(element("pre",
      Object.entries(facts).map(([name, value]) => `${name}: ${value}`).join("\n")));
  }
  made.append(element("p", `Data set ${data.data_set}. The paper's figures: ${data.paper.source}`));
  const lists = [["problems", "Left out"], ["notes", "Trained in different ways"]];
  for (const [id, title] of lists.filter(([id]) => data[id].length)) {
    made.append(element("h3", title));
    const list = element("ul");
    list.id = id;
    for (const line of data[id]) list.append(element("li", line));
    made.append(list);
  }
}
