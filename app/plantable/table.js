// The tables of page Bits: a row a layer, a row an embedding table. What a person does is shown at once and sent
// as a list of edits, each with a number; what the server has taken (`seen`) is dropped from the list, and the
// rows it sends are what is true. Nothing is built anew while the rows stay as many: the focus stays, too.

const NEXT = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export default function ({ data, parentElement, setStateValue }) {
  parentElement.planTable ??= new PlanTable(parentElement);
  parentElement.planTable.show(data, setStateValue);
  // Nothing to clean up: all of it goes with its parent. Streamlit would also call a cleanup after the table was
  // shown anew, when one call overtakes another.
}

class PlanTable {
  constructor(parent) {
    this.root = make("div", { className: "plan-table" });
    parent.append(this.root);
    this.pending = []; // edits the server has not taken yet: [number, kind, row, column, value]
    this.number = 0;
    this.shape = "";
    this.root.addEventListener("keydown", (event) => this.pressed(event));
    this.root.addEventListener("focusin", (event) => this.focused(event.target));
    this.root.addEventListener("change", (event) => this.changed(event.target));
    this.root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.edit(button, button.getAttribute("aria-pressed") !== "true");
    });
  }

  show(data, send) {
    if (data.token !== this.token) Object.assign(this, { token: data.token, pending: [] }); // another model or session
    this.send = send;
    this.data = data;
    this.number = Math.max(this.number, data.seen);
    this.pending = this.pending.filter(([number]) => number > data.seen);
    this.root.style.colorScheme = data.dark ? "dark" : "light";
    this.root.style.setProperty("--accent", data.accent);
    this.root.style.setProperty("--bar", data.bar);
    const shape = JSON.stringify([data.token, data.tables.map((table) => [table.columns, table.rows.length])]);
    if (shape !== this.shape) this.build();
    this.shape = shape;
    this.fill();
  }

  build() {
    this.root.replaceChildren(...this.data.tables.map((table) => this.frame(table)));
    for (const frame of this.root.children) frame.querySelector("[data-column]").tabIndex = 0;
  }

  frame(table) {
    const head = make("tr");
    for (const { name, help, type } of table.columns) {
      head.append(make("th", { scope: "col", textContent: name, title: help, className: type }));
    }
    const body = make("tbody");
    table.rows.forEach((row, index) => {
      const line = make("tr");
      table.columns.forEach((column, place) => line.append(this.cell(table, row, index, column, place)));
      body.append(line);
    });
    const grid = make("table", { role: "grid", ariaLabel: table.label, ariaDescription: this.data.keys });
    grid.append(make("thead"), body);
    grid.tHead.append(head);
    const frame = make("div", { className: `frame ${table.kind}` });
    frame.append(grid);
    return frame;
  }

  cell(table, row, index, column, place) {
    const cell = make(place ? "td" : "th");
    if (!place) cell.scope = "row";
    const label = `${column.says} ${row.name}`;
    const at = (control) => {
      Object.assign(control.dataset, { kind: table.kind, row: index, column: column.name });
      control.ariaLabel = label;
      control.tabIndex = -1;
      return control;
    };
    if (column.type === "bits") {
      const select = at(make("select"));
      for (const bits of this.data.choices) select.append(make("option", { value: bits, textContent: bits }));
      cell.className = "bits";
      cell.append(select);
    } else if (column.type === "count") {
      cell.append(at(make("input", { type: "text", inputMode: "numeric", autocomplete: "off", maxLength: 12 })));
    } else if (column.type === "switch") {
      cell.append(at(make("input", { type: "checkbox" })));
    } else if (column.type === "mark") {
      cell.append(at(make("button", { type: "button", textContent: row.name, title: column.help })));
    } else {
      cell.className = column.type; // a text, or a bar
    }
    return cell;
  }

  // What the server says, and over it what it has not taken yet.
  fill() {
    this.data.tables.forEach((table, nth) => {
      const lines = this.root.children[nth].querySelectorAll("tbody tr");
      table.rows.forEach((row, index) => {
        const values = { ...row };
        for (const [, kind, at, column, value] of this.pending) {
          if (kind === table.kind && at === index) values[column] = value;
        }
        const marks = table.columns[0].type === "mark";
        if (marks) lines[index].ariaSelected = String(Boolean(values[table.columns[0].name]));
        table.columns.forEach((column, place) => {
          this.write(lines[index].children[place], column, values, row);
        });
      });
    });
  }

  write(cell, column, values, row) {
    const value = values[column.name];
    const control = cell.firstElementChild;
    if (column.type === "bits") {
      const mixed = control.querySelector("[data-mixed]");
      if (!this.data.choices.includes(value) && !mixed) {
        const option = make("option", { value, textContent: value, disabled: true });
        option.dataset.mixed = "";
        control.prepend(option);
      } else if (this.data.choices.includes(value)) mixed?.remove();
      if (control.value !== value) control.value = value;
      this.paint(control);
    } else if (column.type === "count") {
      const text = value === null ? "" : String(value);
      if (control.dataset.shown !== text || document.activeElement !== control) control.value = text;
      control.dataset.shown = text;
      control.placeholder = value === null ? "mixed" : "";
    } else if (column.type === "switch") {
      control.checked = Boolean(value);
    } else if (column.type === "mark") {
      control.ariaPressed = String(Boolean(value));
    } else if (column.type === "omega") {
      cell.textContent = value.text;
      cell.style.setProperty("--share", `${100 * value.share}%`);
    } else {
      cell.textContent = row.name;
    }
  }

  paint(select) {
    const [back, ink] = this.data.colours[select.value] ?? ["transparent", "inherit"];
    select.parentElement.style.setProperty("--bits", back);
    select.parentElement.style.setProperty("--on-bits", ink);
  }

  // --- what a person does

  edit(control, value) {
    const { kind, row, column } = control.dataset;
    this.submit(kind, Number(row), column, value);
  }

  submit(...what) {
    this.number += 1;
    this.pending.push([this.number, ...what]);
    this.send("edits", { token: this.token, edits: [...this.pending] });
    this.fill();
  }

  changed(control) {
    if (control.matches("select")) this.edit(control, control.value);
    else if (control.matches("[type=checkbox]")) this.edit(control, control.checked);
    else this.count(control);
  }

  // A count that was typed; what is no number goes as text, and the server says what is wrong with it.
  count(input) {
    const text = input.value.trim();
    if (text === input.dataset.shown) return;
    if (text === "") input.value = input.dataset.shown;
    else {
      input.dataset.shown = text;
      this.edit(input, /^\d+$/.test(text) ? Number(text) : text);
    }
  }

  focused(control) {
    if (!control.dataset.column) return;
    const grid = control.closest("table");
    for (const other of grid.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    control.tabIndex = 0; // where Tab comes back to
    if (control.matches("[type=text]")) control.select();
  }

  pressed(event) {
    const control = event.target.closest("[data-column]");
    if (!control || event.altKey) return;
    const typed = control.matches("[type=text]");
    if (event.ctrlKey || event.metaKey) {
      const key = event.key.toLowerCase();
      const step = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : null;
      if (!step || (typed && control.value !== control.dataset.shown)) return;
      this.submit(step, 0, "", null);
    } else if (event.key in NEXT) {
      if (typed && NEXT[event.key][1] && !this.leaves(control, NEXT[event.key][1])) return;
      this.move(control, ...NEXT[event.key]);
    } else if (control.matches("select") && this.data.choices.includes(event.key)) {
      this.choose(control, event.key);
    } else if (control.matches("select") && "fF".includes(event.key)) {
      this.choose(control, this.data.choices.at(-1));
    } else if (control.matches("select") && "+-\u2212".includes(event.key)) {
      const at = this.data.choices.indexOf(control.value) + (event.key === "+" ? 1 : -1);
      if (at >= 0 && at < this.data.choices.length) this.choose(control, this.data.choices[at]);
    } else if (control.matches("select") && event.key === "Enter") {
      control.showPicker?.();
    } else if (typed && event.key === "Enter") {
      this.count(control);
      control.select();
    } else if (typed && event.key === "Escape") {
      control.value = control.dataset.shown;
      control.select();
    } else return;
    event.preventDefault();
  }

  choose(select, bits) {
    if (select.value !== bits) this.edit(select, bits);
  }

  // Whether an arrow leads out of a field: from its end, or where all of it is selected.
  leaves(input, step) {
    const { selectionStart: from, selectionEnd: to, value } = input;
    return (from === 0 && to === value.length) || (from === to && (step < 0 ? from === 0 : to === value.length));
  }

  move(control, down, right) {
    const cell = control.closest("td,th"), line = cell.parentElement;
    let next = cell;
    if (down) next = line.parentElement.rows[line.sectionRowIndex + down]?.cells[cell.cellIndex];
    else {
      do next = line.cells[next.cellIndex + right];
      while (next && !next.querySelector("[data-column]")); // a bar holds nothing to act on
    }
    next?.querySelector("[data-column]")?.focus();
  }
}

function make(tag, more = {}) {
  return Object.assign(document.createElement(tag), more);
}
