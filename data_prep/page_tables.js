// A table that a click on a heading sorts. Columns are [title, key, format]. Returns a function
// that shows only the rows in which a string contains the given text.
function table(id, columns, rows, sortBy) {
  const target = byId(id);
  const head = element("thead"), line = element("tr"), body = element("tbody");
  const state = {column: sortBy, descending: true, wanted: ""};
  const cells = columns.map(([title, key]) => {
    const cell = element("th"), button = element("button", title);
    button.addEventListener("click", () => {
      state.descending = state.column === key ? !state.descending : true;
      state.column = key;
      draw();
    });
    cell.append(button);
    line.append(cell);
    return [cell, key];
  });
  function draw() {
    for (const [cell, key] of cells) {
      if (key === state.column) {
        cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      } else cell.removeAttribute("aria-sort");
    }
    let shown = rows.filter((row) => Object.values(row).some((value) =>
      typeof value === "string" && value.toLowerCase().includes(state.wanted)));
    if (state.column) {
      const sign = state.descending ? -1 : 1;
      const order = (a, b) => typeof a === "string" ? b.localeCompare(a) : (a ?? -1) - (b ?? -1);
      shown = shown.sort((a, b) => sign * order(a[state.column], b[state.column]));
    }
    body.replaceChildren(...shown.map((row) => {
      const made = element("tr");
      for (const [, key, format] of columns) {
        made.append(element("td", format ? format(row[key]) : row[key]));
      }
      return made;
    }));
  }
  head.append(line);
  target.append(head, body);
  draw();
  return (wanted) => { state.wanted = wanted.toLowerCase(); draw(); };
}
