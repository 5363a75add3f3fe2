// Behind DataTables, in one module. Everything that a run has said is set as text, never as markup.
const element = (id) => document.getElementById(id);

const unpacked = (text) => {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
};
const unpacking = unpacked(element("data").textContent);
let cells = []; // until they are unpacked

// -- the matrix
const search = element("search"), filters = element("filters"), selects = [...filters.querySelectorAll("select[data-axis]")], doubt = element("doubt");
const heads = [...document.querySelectorAll("#matrix thead th")];
// Numbers are sorted by their values, not by what is read: the rows of the table are the cells, in their order.
const quantities = heads.flatMap((head, at) => head.dataset.quantity ? [at] : []);
const texts = heads.flatMap((head, at) => head.dataset.quantity ? [] : [at]);
DataTable.ext.order.quantity = (settings, at) => cells.map((cell) => cell[heads[at].dataset.quantity] ?? Infinity); // what was not measured comes last
const table = new DataTable("#matrix", {
  order: [],
  columnDefs: [{ targets: quantities, type: "num", orderDataType: "quantity", searchable: false }, { targets: texts, type: "string" }],
  pageLength: 50,
  lengthMenu: [25, 50, 100, 500, { label: "all", value: -1 }],
  autoWidth: false,
  layout: { topStart: null, topEnd: null, bottomStart: ["info", "pageLength"], bottomEnd: "paging" },
  language: { lengthMenu: "_MENU_ rows a page", info: "_START_ to _END_ of _TOTAL_ rows" },
});
const count = () => {
  element("count").textContent = `${table.rows({ search: "applied" }).count()} of ${table.rows().count()} rows`;
};
const filter = () => {
  for (const select of selects) {
    const column = table.column(heads.findIndex((head) => head.dataset.axis === select.dataset.axis));
    column.search.fixed("axis", select.value === "" ? null : (text) => text === select.value);
  }
  const doubted = doubt === null || doubt.value === "" ? null : new Set(doubt.value === "any" ? data.doubts.flat() : data.doubts[doubt.value]);
  table.search.fixed("doubt", doubted && ((text, row, at) => doubted.has(cells[at].key)));
  table.search(search.value).draw();
  count();
};
filters.addEventListener("input", filter);
filters.addEventListener("reset", () => setTimeout(filter));
filters.addEventListener("submit", (event) => event.preventDefault());
count();
const data = await unpacking;
cells = data.cells;
filters.hidden = false;

// -- records
const dialog = element("record");
// What is read first: the row of the matrix under its heads, which say the units, and where and when it was measured.
const summarised = (key) => {
  const row = table.row(`#${CSS.escape(key)}`).node(), cell = data.cells.find((each) => each.key === key);
  const said = heads.map((head, at) => [head.textContent, row.cells[at].textContent.trim()]);
  said.push(["machine", cell.machine], ["began", cell.started_at], ["session", cell.session], ["revision of plumbline", cell.revision]);
  said.push(["weights", cell.weights], ["accuracy measured on", cell.data], ["energy measured by", cell.meter]);
  return [...new Map(said.filter(([, text]) => text))].flatMap(([name, text]) => {
    const term = document.createElement("dt"), words = document.createElement("dd");
    term.textContent = name;
    words.textContent = text;
    return [term, words];
  });
};
const readable = (record) => JSON.stringify(record, null, 1).replace(/\[[^[\]{}"]*\]/g, (list) => list.replace(/\s+/g, " ")); // a list of numbers in a line
let open = null;
const show = () => {
  const key = decodeURIComponent(location.hash.slice(1));
  const record = Object.hasOwn(data.records, key) ? data.records[key] : null;
  if (record === null) {
    if (dialog.open) dialog.close();
    return;
  }
  open = record;
  element("record-title").textContent = record.id;
  element("record-summary").replaceChildren(...summarised(key));
  element("record-body").textContent = readable(record);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
};
dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
addEventListener("hashchange", show);
element("matrix").addEventListener("click", (event) => {
  const row = event.target.closest("tbody tr");
  if (row && row.id && !event.target.closest("a") && getSelection().isCollapsed) location.hash = row.id;
});
element("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(open, null, 1)], { type: "application/json" }));
  link.download = "record.json";
  link.click();
  URL.revokeObjectURL(link.href);
});

// -- charts
const dark = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const drawn = new Map();
const night = () => dark.matches && !printing;
const configured = () => {
  const [ink, soft, line] = night() ? ["#e8ebee", "#b3bcc6", "#414b56"] : ["#1b1f24", "#4d5560", "#dfe4e9"];
  const axis = { labelColor: soft, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft, labelSeparation: 4 };
  const text = { labelColor: ink, titleColor: ink };
  return {
    background: "transparent", font: "system-ui, sans-serif", axis, legend: text, header: text, title: { color: ink, subtitleColor: soft },
    view: { stroke: line }, text: { color: ink }, rule: { color: soft },
  };
};
// Charts are made for a wide page. Where there is less room, parts stand below each other, titles are wrapped, and plots are narrower.
const wrapped = (text, most) => text.split(" ").reduce((lines, word) => {
  const last = lines.at(-1);
  return last && last.length + word.length < most ? [...lines.slice(0, -1), `${last} ${word}`] : [...lines, word];
}, []);
const narrowed = (part, width, room, inside = "") => {
  if (Array.isArray(part)) return part.map((each) => narrowed(each, width, room, inside));
  if (part === null || typeof part !== "object" || ["data", "datasets", "tooltip"].includes(inside)) return part;
  return Object.fromEntries(Object.entries(part).map(([name, own]) => {
    if (name === "hconcat") return ["vconcat", narrowed(own, width, room)];
    if (name === "columns") return [name, 1];
    if (name === "width" && typeof own === "number") return [name, Math.min(own, width)];
    if (name.endsWith("Limit")) return [name, Math.min(own, room * (inside === "axis" ? 0.4 : 0.6))];
    if (name === "title" && typeof own === "string") return [name, wrapped(own, room / 13)];
    return [name, narrowed(own, width, room, name)];
  }));
};
const draw = async (place) => {
  if (typeof vegaEmbed === "undefined") { // nobody has to wait for a megabyte of script before there is a chart to be seen
    const script = document.createElement("script");
    script.textContent = element("vega").textContent;
    document.head.append(script);
  }
  const name = place.dataset.picture, room = place.parentElement.clientWidth; // that of a drawn chart is its own
  const renderer = data.cells.length > 1000 ? "canvas" : "svg";
  const embed = async (specification) => {
    const own = structuredClone(specification);
    own.datasets = { ...own.datasets, cells: structuredClone(data.cells) };
    own.config = { ...configured(), ...own.config };
    drawn.set(name, (await vegaEmbed(place, own, { ast: true, actions: false, renderer, loader: { target: "_self" } })).view);
    return place.scrollWidth - room; // what does not fit
  };
  let over = await embed(data.pictures[name]);
  for (let width = room, times = 0; over > 0 && times < 3 && width > 100; times++) {
    if (times > 0) width -= over;
    over = await embed(narrowed(data.pictures[name], Math.max(width, 100), room));
  }
};
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) {
    watch.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "400px" });
const places = [...document.querySelectorAll("[data-picture]")];
places.forEach((place) => watch.observe(place));
const shade = () => document.documentElement.classList.toggle("dark", night()); // for DataTables
shade();
dark.addEventListener("change", shade);
const again = () => places.filter((place) => drawn.has(place.dataset.picture)).forEach(draw);
dark.addEventListener("change", again);
let across = innerWidth, later = 0;
addEventListener("resize", () => {
  clearTimeout(later);
  if (innerWidth !== across) later = setTimeout(() => again(across = innerWidth), 300);
});
// On paper there are all rows that the filters leave, and all charts, in dark ink.
let rows = 0;
addEventListener("beforeprint", () => {
  printing = true;
  shade();
  rows = table.page.len();
  table.page.len(-1).draw();
  places.forEach(draw);
});
addEventListener("afterprint", () => {
  printing = false;
  shade();
  table.page.len(rows).draw();
  again();
});
window.plumbline = { table, drawn, draw: () => Promise.all(places.map(draw)) }; // for whoever reads the page by a program
show();
