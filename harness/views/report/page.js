// Behind DataTables, in one module. Everything that a run has said is set as text, never as markup.
const element = (id) => document.getElementById(id);

const packed = Uint8Array.from(atob(element("data").textContent), (letter) => letter.charCodeAt(0));
const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
const data = await new Response(stream).json();

// -- the matrix
const search = element("search"), filters = element("filters"), selects = [...filters.querySelectorAll("select")];
const heads = [...document.querySelectorAll("#matrix thead th")];
// Numbers are sorted by their values, not by what is read: the rows of the table are the cells, in their order.
const quantities = heads.flatMap((head, at) => head.dataset.quantity ? [at] : []);
DataTable.ext.order.quantity = (settings, at) => data.cells.map((cell) => cell[heads[at].dataset.quantity] ?? Infinity); // what was not measured comes last
const table = new DataTable("#matrix", {
  order: [],
  columnDefs: [{ targets: quantities, type: "num", orderDataType: "quantity" }],
  pageLength: 100,
  lengthMenu: [25, 100, 500, { label: "all", value: -1 }],
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
  table.search(search.value).draw();
  count();
};
filters.addEventListener("input", filter);
filters.addEventListener("reset", () => setTimeout(filter));
filters.addEventListener("submit", (event) => event.preventDefault());
filters.hidden = false;
count();

// -- records
const dialog = element("record");
const described = (value) => {
  if (Array.isArray(value) && value.some((each) => each !== null && typeof each === "object")) {
    value = Object.fromEntries(value.entries());
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    const node = document.createElement("span");
    node.textContent = Array.isArray(value) ? value.map((each) => Number.isFinite(each) ? +each.toPrecision(4) : each).join(", ") : String(value);
    return node;
  }
  const list = document.createElement("dl");
  for (const [name, own] of Object.entries(value)) {
    if (own === null || (typeof own === "object" && Object.keys(own).length === 0)) continue; // not learned
    const term = document.createElement("dt"), words = document.createElement("dd");
    term.textContent = name;
    words.append(described(own));
    list.append(term, words);
  }
  return list;
};
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
  element("record-body").replaceChildren(described(record));
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
const printing = matchMedia("print");
const drawn = new Map();
const configured = () => {
  const night = dark.matches && !printing.matches;
  const ink = night ? "#e8ebee" : "#1b1f24", soft = night ? "#b3bcc6" : "#4d5560", line = night ? "#414b56" : "#dfe4e9";
  const axis = { labelColor: soft, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft };
  const text = { labelColor: ink, titleColor: ink };
  return {
    background: "transparent", font: "system-ui, sans-serif", axis, legend: text, header: text, title: { color: ink, subtitleColor: soft },
    view: { stroke: line }, text: { color: ink }, rule: { color: soft },
  };
};
const draw = async (place) => {
  const name = place.dataset.picture, own = structuredClone(data.pictures[name]);
  own.datasets = { ...own.datasets, cells: structuredClone(data.cells) };
  own.config = { ...configured(), ...own.config };
  const renderer = data.cells.length > 1000 ? "canvas" : "svg";
  const embedded = await vegaEmbed(place, own, { ast: true, actions: false, renderer, loader: { target: "_self" } });
  drawn.set(name, embedded.view);
};
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) {
    watch.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "400px" });
const places = [...document.querySelectorAll("[data-picture]")];
places.forEach((place) => watch.observe(place));
const shade = () => document.documentElement.classList.toggle("dark", dark.matches); // for DataTables
shade();
dark.addEventListener("change", shade);
const again = () => places.filter((place) => drawn.has(place.dataset.picture)).forEach(draw);
dark.addEventListener("change", again);
addEventListener("beforeprint", () => {
  table.page.len(-1).draw();
  return Promise.all(places.map(draw));
});
window.plumbline = { table, drawn, draw: () => Promise.all(places.map(draw)) }; // for whoever reads the page by a program
show();
