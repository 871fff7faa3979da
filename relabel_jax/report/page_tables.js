// The headline, the tables and the last section of the report's page.
const LABELINGS = ["ol", "pel", "pe_cml"];
const TITLES = {ol: "OL", pel: "PEL", pe_cml: "PE-CML", "": "scratch", truth: "the truth"};
const METHODS = {features: "features", finetune: "fine-tuning", scratch: "scratch", base: "base"};
const unique = (values) => [...new Set(values)];
const score = (x) => x === null ? "–" : x.toFixed(4);
const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(4);
const transfers = [...data.table3, ...data.table4];

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
    (win.table === "table3" ? "features (Table III); " : "fine-tuning (Table IV); ") +
    (more || less ? `beyond chance ${more} above, ${less} below` : "none beyond chance"));
}

// Tables.
const isSignificant = (row) => row.p_holm !== null && row.p_holm < data.significant_p;
const columnTitle = (base) => base ? `${TITLES[base]} base` : "scratch";
function cell(row, form) {
  const made = element("td"), facts = element("div"), isSure = isSignificant(row);
  made.dataset.key = [row.root, row.labeling, row.method, row.base_labeling].join("/");
  made.dataset.label = columnTitle(row.base_labeling);
  const note = (text) => facts.append(element("small", text));
  facts.append(element("b", score(form ? row["mAP_on_" + form] : row.mAP)));
  if (!form) {
    if (row.mAP_sd !== null) note(`± ${row.mAP_sd.toFixed(4)}`);
    if (row.difference !== null) {
      note(signed(row.difference) + (isSure ? " *" : ""));
      if (isSure) facts.lastChild.className = row.difference > 0 ? "up" : "down";
      if (row.low !== null) {
        note(`[${signed(row.low)}, ${signed(row.high)}]`);
        note(`p ${row.p_holm < 0.001 ? "< 0.001" : row.p_holm.toFixed(3)}`);
      }
    }
    if (row.paper !== null) {
      note(`paper ${row.paper} (${row.minus_paper === null ? "–" : signed(row.minus_paper)})`);
    }
  }
  made.append(facts);
  return made;
}
function drawTable(name, form) {
  const rows = data[name], head = element("tr"), body = element("tbody"), top = element("thead");
  const empty = new Map();
  head.append(element("th", "Root, target labels"));
  for (const base of unique(rows.map((row) => row.base_labeling))) {
    head.append(element("th", columnTitle(base)));
  }
  for (const root of unique(rows.map((row) => row.root))) {
    for (const labeling of unique(rows.map((row) => row.labeling))) {
      const shown = rows.filter((row) => row.root === root && row.labeling === labeling);
      if (shown.every((row) => row.mAP === null)) {
        empty.set(root, [...empty.get(root) ?? [], TITLES[labeling]]);
        continue;
      }
      const line = element("tr"), title = element("th", root);
      title.append(element("small", `${TITLES[labeling]} labels`));
      line.append(title, ...shown.map((row) => cell(row, form)));
      body.append(line);
    }
  }
  top.append(head);
  byId(name).replaceChildren(top, body);
  byId(name).parentElement.hidden = !body.children.length;
  const without = [...empty].map(([root, labels]) => `${root} (${labels.join(", ")} labels)`);
  byId(`${name}-empty`).textContent = without.length ? `No results: ${without.join("; ")}.` : "";
  // The blocks of a phone are no table to a screen reader without these roles.
  for (const [selector, role] of [["thead, tbody", "rowgroup"], ["tr", "row"], ["td", "cell"],
    ["thead th", "columnheader"], ["tbody th", "rowheader"]]) {
    for (const each of byId(name).querySelectorAll(selector)) each.setAttribute("role", role);
  }
  byId(name).setAttribute("role", "table");
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
function drawTables() {
  for (const name of ["table3", "table4"]) drawTable(name, byId("scored").value);
}
drawTables();
{
  const head = element("tr"), body = element("tbody"), top = element("thead");
  for (const title of ["Root", "Side", "Labels", "Train clips", "Validation", "Test",
    "Label set", "Per test clip", "Masked", "mAP", "Paper's label set"]) {
    head.append(element("th", title));
  }
  for (const row of data.table1) {
    const line = element("tr");
    line.append(element("th", row.root));
    for (const text of [row.side, TITLES[row.labeling], count(row.train_clips),
      count(row.validation_clips), count(row.test_clips), count(row.labels),
      row.labels_per_test_clip.toFixed(2), row.masked_per_test_clip.toFixed(1), score(row.mAP),
      count(row.paper_labels)]) line.append(element("td", text));
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
