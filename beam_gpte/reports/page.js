// Draws the charts and maps of a page with BokehJS, and makes its tables searchable. Texts of the
// page's data become text nodes or pixels, never markup.
"use strict";
(() => {
  const MAX_LISTED = 50; // texts found by a search
  const MIN_BARS = 8; // that a chart has room for: fewer are not wider
  const MAX_LABELS = 8; // on a narrow screen
  const COLORS = [
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#c2c443",
    "#2f8fa8", "#d65a9c", "#7a8cc9", "#c98a3d", "#8fcf7a", "#b5524a", "#5f6fa8", "#d9a6e8", "#4fa36f", "#a38f5c",
  ];
  const OTHERS = "#9498a0";
  // each end stands out from the card
  const RAMPS = {
    light: ["#440154", "#3b528b", "#21918c", "#4fae4c", "#b3a000"],
    dark: ["#8a63d2", "#5b80d8", "#2ba7a0", "#74d36a", "#fde725"],
  };

  const charts = JSON.parse(document.getElementById("charts").textContent);
  Bokeh.logger.set_level("error");

  const element = (tag, attributes = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  };
  const swatch = (color) => {
    const made = element("span", { className: "swatch" });
    made.style.background = color;
    return made;
  };
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const whole = (value) => (value >= 1e4 ? Intl.NumberFormat("en", { notation: "compact" }) : Intl.NumberFormat("en", { maximumSignificantDigits: 3 })).format(value);
  const isNarrow = () => matchMedia("(max-width: 820px)").matches;
  const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  const colorRamp = () => RAMPS[isDark() ? "dark" : "light"];

  // axes and background in the colors of the page
  const figure = (options) => {
    const plot = Bokeh.Plotting.figure({
      sizing_mode: "stretch_width",
      toolbar_location: null,
      background_fill_color: null,
      border_fill_color: null,
      outline_line_color: null,
      min_border: 0,
      ...options,
    });
    for (const axis of plot.axes) {
      axis.setv({
        axis_line_color: null,
        major_tick_line_color: null,
        minor_tick_line_color: null,
        major_label_text_color: color("soft"),
        major_label_text_font: "system-ui, sans-serif",
        major_label_text_font_size: "12px",
        axis_label_text_color: color("soft"),
        axis_label_text_font: "system-ui, sans-serif",
        axis_label_text_font_size: "12px",
        axis_label_text_font_style: "normal",
        axis_label_standoff: 4,
      });
    }
    for (const grid of plot.grids) grid.setv({ grid_line_color: color("rule") });
    return plot;
  };
  const tip = (...lines) => element("div", { className: "tip" }, ...lines);

  function drawBars(box, chart) {
    const count = chart.counts.length;
    const at = chart.mark ? chart.mark[0] : null;
    const isLimit = chart.mark && chart.mark[4];
    const [low, high] = isLimit ? [color("blue"), color("orange")] : [color("faint"), color("blue")];
    const line = isLimit ? color("ink") : color("orange");
    const fills = chart.counts.map((_, i) => (at === null ? color("blue") : i + 0.5 < at ? low : high));
    const floor = chart.log ? 0.5 : 0;
    const top = Math.max(1, ...chart.counts);
    const plot = figure({
      height: 230,
      tools: [],
      x_range: new Bokeh.Range1d({ start: 0, end: Math.max(count, MIN_BARS) }),
      y_range: new Bokeh.Range1d({ start: floor, end: chart.log ? top * 2 : top * 1.06 }),
      y_axis_type: chart.log ? "log" : "linear",
      x_axis_label: chart.label,
      y_axis_label: chart.unit,
    });
    for (const grid of plot.xgrids) grid.setv({ grid_line_color: null });
    const ticks = chart.ticks.map(([place]) => place);
    plot.xaxes[0].setv({ ticker: new Bokeh.FixedTicker({ ticks }), major_label_overrides: new Map(chart.ticks) });
    plot.yaxes[0].setv({ formatter: new Bokeh.NumeralTickFormatter({ format: "0.[0]a" }) });
    plot.yaxes[0].ticker.desired_num_ticks = 4;
    if (!chart.log && chart.counts.every(Number.isInteger)) plot.yaxes[0].ticker.min_interval = 1;
    const gap = count > 40 ? 0.02 : 0.06;
    const source = new Bokeh.ColumnDataSource({
      data: {
        left: chart.counts.map((_, i) => i + gap),
        right: chart.counts.map((_, i) => i + 1 - gap),
        top: chart.counts.map((value) => (value ? Math.max(value, chart.log ? 0.6 : top / 150) : floor)),
        fill: fills,
      },
    });
    plot.quad({
      left: { field: "left" },
      right: { field: "right" },
      top: { field: "top" },
      bottom: floor,
      fill_color: { field: "fill" },
      line_color: null,
      source,
    });
    if (at !== null) {
      plot.add_layout(new Bokeh.Span({ location: at, dimension: "height", line_color: line, line_width: 2, line_dash: [4, 3] }));
    }
    plot.add_tools(new Bokeh.HoverTool({
      tooltips: (_, { index }) => tip(element("b", {}, chart.names[index]), `${whole(chart.counts[index])} ${chart.unit}`),
      attachment: "vertical",
    }));
    box.replaceChildren();
    if (chart.mark) {
      const [, name, above, below] = chart.mark;
      const legend = element("div", { className: "legend" });
      for (const [text, fill] of [[below, low], [above, high], [name, line]]) {
        if (text) legend.append(element("span", {}, swatch(fill), text));
      }
      box.append(legend);
    }
    const target = element("div");
    box.append(target);
    Bokeh.Plotting.show(plot, target);
  }

  // of a column: the color of each point, and what to show beside the map
  function coloring(column) {
    if (column.kind === "number") {
      const known = column.values.filter((value) => value !== null).sort((a, b) => a - b);
      const low = known[Math.floor(known.length * 0.02)];
      const high = known[Math.ceil(known.length * 0.98) - 1];
      const share = (value) => Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
      return { fills: column.values.map((value) => (value === null ? OTHERS : ramp(share(value)))), low, high };
    }
    const counts = new Map();
    for (const value of column.values) counts.set(value, (counts.get(value) || 0) + 1);
    const quiet = (value) => value === "between regions" || value === "–";
    const names = [...counts.keys()].sort((a, b) => quiet(a) - quiet(b) || counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
    const fill = new Map(names.map((name, i) => [name, quiet(name) ? OTHERS : COLORS[i % COLORS.length]]));
    return { fills: column.values.map((value) => fill.get(value)), groups: names.map((name) => ({ name, count: counts.get(name), fill: fill.get(name) })) };
  }
  function ramp(share) {
    const stops = colorRamp();
    const place = share * (stops.length - 1);
    const i = Math.min(stops.length - 2, Math.floor(place));
    const parts = [1, 3, 5].map((at) => {
      const [a, b] = [stops[i], stops[i + 1]].map((text) => parseInt(text.slice(at, at + 2), 16));
      return Math.round(a + (b - a) * (place - i)).toString(16).padStart(2, "0");
    });
    return `#${parts.join("")}`;
  }

  // the middle of each region, for its name on the map
  function regionLabels(chart) {
    const column = chart.columns.find(({ name }) => name === "region");
    if (!column) return [];
    const { groups } = coloring(column);
    return groups.filter(({ name }) => name !== "between regions").map(({ name }) => {
      const rows = column.values.flatMap((value, i) => (value === name ? [i] : []));
      const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
      return { name, x: middle(rows.map((i) => chart.x[i])), y: middle(rows.map((i) => chart.y[i])) };
    });
  }

  const shorter = (name) => name.split(", ").slice(0, isNarrow() ? 1 : 2).join(", ");

  function drawMap(box, chart) {
    const count = chart.x.length;
    const searched = chart.ids.map((id, i) => `${id}\n${chart.texts[i]}`.toLowerCase());
    const everything = [...Array(count).keys()];
    const data = (fill) => ({ x: chart.x, y: chart.y, fill });
    const source = new Bokeh.ColumnDataSource({ data: data(everything.map(() => OTHERS)) });
    const ranges = [chart.x, chart.y].map(() => new Bokeh.Range1d({ start: 0, end: 1 }));
    const wheel = new Bokeh.WheelZoomTool();
    const tap = new Bokeh.TapTool();
    // a finger that drags scrolls the page; buttons zoom
    const isTouch = matchMedia("(pointer: coarse)").matches;
    const pan = new Bokeh.PanTool();
    const plot = figure({
      height: isNarrow() ? 380 : 560,
      tools: isTouch ? [tap] : [pan, wheel, tap],
      active_scroll: isTouch ? null : wheel,
      active_drag: isTouch ? null : pan,
      x_range: ranges[0],
      y_range: ranges[1],
      x_axis_type: null,
      y_axis_type: null,
    });
    for (const grid of plot.grids) grid.setv({ grid_line_color: null });
    if (chart.joined) {
      const half = count / 2;
      const ends = (values) => [values.slice(0, half), values.slice(half)];
      const [x0, x1] = ends(chart.x);
      const [y0, y1] = ends(chart.y);
      plot.segment({ x0, y0, x1, y1, line_color: color("soft"), line_alpha: 0.35, line_width: 0.8 });
    }
    const dots = plot.scatter({ field: "x" }, { field: "y" }, {
      source,
      size: count > 1500 ? 6 : 7.5,
      fill_color: { field: "fill" },
      fill_alpha: 0.75,
      line_color: color("card"),
      line_width: 0.6,
      selection_fill_alpha: 1,
      selection_line_color: color("ink"),
      nonselection_fill_alpha: 0.12,
      nonselection_line_alpha: 0.1,
    });
    tap.setv({ renderers: [dots] });
    plot.add_tools(new Bokeh.HoverTool({
      renderers: [dots],
      tooltips: (_, { index }) => tip(element("b", {}, chart.ids[index]), brief(chart.texts[index])),
    }));
    const labels = regionLabels(chart).slice(0, isNarrow() ? MAX_LABELS : Infinity);
    if (labels.length) {
      plot.add_layout(new Bokeh.LabelSet({
        x: { field: "x" },
        y: { field: "y" },
        text: { field: "name" },
        source: new Bokeh.ColumnDataSource({ data: { x: labels.map(({ x }) => x), y: labels.map(({ y }) => y), name: labels.map(({ name }) => shorter(name)) } }),
        text_align: "center",
        text_baseline: "middle",
        text_color: color("ink"),
        background_fill_color: color("card"),
        background_fill_alpha: 0.75,
        text_font: "system-ui, sans-serif",
        text_font_size: isNarrow() ? "10px" : "11.5px",
      }));
    }

    const search = element("input", { type: "search", placeholder: "id or words", autocomplete: "off" });
    const colorBy = element("select");
    const zoomTo = element("select");
    const found = element("p", { className: "soft" });
    found.setAttribute("aria-live", "polite");
    const legend = element("div");
    const list = element("ul");
    const point = element("div");
    const button = (text, label, act) => element("button", { type: "button", title: label, ariaLabel: label, onclick: act }, text);

    const fit = (rows) => {
      for (const [range, values] of [[ranges[0], chart.x], [ranges[1], chart.y]]) {
        const sorted = rows.map((i) => values[i]).sort((a, b) => a - b);
        const trim = rows.length === count ? 0 : Math.floor(rows.length * 0.03);
        const [low, high] = [sorted[trim], sorted[sorted.length - 1 - trim]];
        const room = Math.max((high - low) * (isNarrow() ? 0.12 : 0.08), (rows.length === count ? 0 : 2), 1e-6);
        range.setv({ start: low - room, end: high + room });
      }
    };
    const zoom = (factor) => {
      for (const range of ranges) {
        const middle = (range.start + range.end) / 2;
        const half = ((range.end - range.start) / 2) * factor;
        range.setv({ start: middle - half, end: middle + half });
      }
    };
    const select = (rows) => { source.selected.indices = rows; };
    const showGroup = (column, name) => {
      const rows = everything.filter((i) => column.values[i] === name);
      select(rows);
      fit(rows);
      found.textContent = `${rows.length.toLocaleString("en")} of ${count.toLocaleString("en")} have ${column.name} ${name}`;
    };
    const showPoint = (rows) => {
      point.replaceChildren(...rows.slice(0, 3).map((i) => {
        const facts = chart.columns.filter(({ values }) => values[i] !== null && values[i] !== "–");
        return element("div", { className: "point" },
          element("b", {}, chart.ids[i]),
          element("p", {}, chart.texts[i]),
          ...facts.flatMap(({ name, values }) => [element("span", {}, `${name} `), `${values[i]}`, element("br")]));
      }));
    };
    const recolor = () => {
      const column = chart.columns[colorBy.value];
      legend.replaceChildren();
      if (!column) {
        source.data = data(everything.map(() => color("blue")));
        return;
      }
      const shown = coloring(column);
      source.data = data(shown.fills);
      if (shown.groups) {
        legend.append(element("ul", {}, ...shown.groups.map(({ name, count: size, fill }) => element("li", {},
          element("button", { type: "button", title: "zoom to this group", onclick: () => showGroup(column, name) },
            swatch(fill), element("span", { className: "text" }, name), element("span", { className: "count" }, size.toLocaleString("en")))))));
      } else {
        const bar = element("div", { className: "ramp" });
        bar.style.background = `linear-gradient(to right, ${colorRamp().join(", ")})`;
        legend.append(bar, element("div", { className: "ends" }, element("span", {}, whole(shown.low)), element("span", {}, whole(shown.high))));
      }
    };
    const reset = () => {
      search.value = "";
      zoomTo.value = "";
      found.textContent = "";
      list.replaceChildren();
      point.replaceChildren();
      select([]);
      fit(everything);
    };
    search.oninput = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      if (!words.length) {
        reset();
        return;
      }
      const rows = everything.filter((i) => words.every((word) => searched[i].includes(word)));
      select(rows.length ? rows : []);
      found.textContent = `${rows.length.toLocaleString("en")} of ${count.toLocaleString("en")} match`;
      list.replaceChildren(...rows.slice(0, MAX_LISTED).map((i) => element("li", {},
        element("button", { type: "button", onclick: () => { select([i]); fit([i]); } },
          element("span", { className: "text" }, element("b", {}, `${chart.ids[i]} `), brief(chart.texts[i]))))));
    };
    source.selected.properties.indices.change.connect(() => {
      const rows = [...source.selected.indices];
      if (rows.length && rows.length <= 3) showPoint(rows);
    });

    chart.columns.forEach((column, i) => {
      if (column.kind === "words") return;
      colorBy.append(element("option", { value: `${i}` }, column.name));
      if (column.kind !== "names") return;
      const group = element("optgroup", { label: column.name });
      for (const { name, count: size } of coloring(column).groups) {
        group.append(element("option", { value: JSON.stringify([i, name]) }, `${name} (${size})`));
      }
      zoomTo.append(group);
    });
    colorBy.append(element("option", { value: "" }, "nothing"));
    zoomTo.prepend(element("option", { value: "" }, "everything"));
    zoomTo.value = "";
    colorBy.onchange = recolor;
    zoomTo.onchange = () => {
      if (!zoomTo.value) {
        reset();
        return;
      }
      const [i, name] = JSON.parse(zoomTo.value);
      showGroup(chart.columns[i], name);
    };

    const target = element("div", { className: "plot" });
    const label = (text, part, className = "") => element("label", { className }, text, part);
    box.replaceChildren(
      element("div", { className: "controls" },
        label("Search", search, "grow"), label("Color by", colorBy), label("Zoom to", zoomTo),
        element("div", { className: "buttons" },
          button("+", "zoom in", () => zoom(0.6)), button("−", "zoom out", () => zoom(1 / 0.6)), button("Reset", "show everything", reset))),
      found,
      element("div", { className: "stage" }, target, element("div", { className: "side" }, legend, list, point)));
    recolor();
    fit(everything);
    Bokeh.Plotting.show(plot, target);
  }
  function brief(text) {
    return text.length > 180 ? `${text.slice(0, 179)}…` : text;
  }

  const order = new Intl.Collator("en", { numeric: true }).compare;
  function searchable(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const search = element("input", { type: "search", placeholder: "ids or words", autocomplete: "off" });
    const found = element("p", { className: "soft" });
    found.setAttribute("aria-live", "polite");
    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      found.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
    };
    search.oninput = filter;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const act = () => {
        const isDown = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
        const sign = isDown ? -1 : 1;
        const keys = new Map(rows.map((row) => [row, sortKey(row.cells[column])]));
        body.append(...[...rows].sort((a, b) => sign * compare(keys.get(a), keys.get(b))));
      };
      head.replaceChildren(element("button", { type: "button", onclick: act }, head.textContent));
    });
    table.parentElement.before(element("div", { className: "controls" },
      element("label", { className: "grow" }, "Filter", search)), found);
    filter();
  }
  function sortKey(cell) {
    const text = cell.textContent.trim();
    const number = Number(text.replaceAll(",", ""));
    return text === "" || Number.isNaN(number) ? text : number;
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return typeof a === typeof b ? order(a, b) : typeof a === "number" ? -1 : 1;
  }

  function draw() {
    for (const box of document.querySelectorAll("[data-chart]")) {
      const chart = charts[Number(box.dataset.chart)];
      (chart.kind === "map" ? drawMap : drawBars)(box, chart);
    }
  }
  draw();
  document.querySelectorAll("table[data-search]").forEach(searchable);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
