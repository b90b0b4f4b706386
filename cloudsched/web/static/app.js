// The dashboard: one page, five views, the native API alone. No library, nothing from elsewhere, no markup from strings.
"use strict";
(() => {
const API = "/api/v2";
const t = JSON.parse(document.getElementById("strings").textContent);
const main = document.getElementById("content");
const status = document.getElementById("status");
const STATES = ["pending", "held", "queued", "assigned", "running", "succeeded", "failed", "timeout", "cancelled"];
const ENDED = ["succeeded", "failed", "timeout", "cancelled"];
let stop = () => {};
let visit = 0;

function el(tag, facts, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(facts || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  for (const one of inside.flat()) if (one !== null && one !== undefined) made.append(one instanceof Node ? one : String(one));
  return made;
}

function headers(more) {
  const key = sessionStorage.getItem("key");
  return { Accept: "application/json", ...(key ? { "X-API-Key": key } : {}), ...more };
}

async function call(path, method = "GET", body) {
  const options = { method, headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }) };
  if (body !== undefined) options.body = JSON.stringify(body);
  const answer = await fetch(API + path, options);
  const type = answer.headers.get("Content-Type") || "";
  const data = type.includes("json") ? await answer.json() : await answer.text();
  if (!answer.ok) throw Object.assign(new Error(data.detail || answer.statusText), { status: answer.status });
  return data;
}

// --- pieces

const time = (text) => (text ? el("time", { datetime: text, title: text }, new Date(text).toLocaleString(document.documentElement.lang || undefined)) : "");
const seconds = (n) => (n === null || n === undefined ? "" : n < 100 ? `${n.toFixed(1)} s` : `${Math.round(n / 60)} min`);
const state = (word) => el("span", { class: `state-${word}` }, word);
const link = (view, id, text) => el("a", { href: `#/${view}/${encodeURIComponent(id)}` }, text ?? id);

function table(names, rows) {
  if (!rows.length) return el("p", { class: "note" }, t.none);
  const head = el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)));
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell)))))));
}

function facts(object) {
  const list = el("dl");
  for (const [name, value] of Object.entries(object)) {
    if (value === null || value === "" || (typeof value === "object" && !Object.keys(value).length)) continue;
    list.append(el("dt", {}, name), el("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value)));
  }
  return list;
}

function button(word, act, ask) {
  return el("button", { type: "button", onclick: async () => {
    if (ask && !confirm(`${word}: ${t.sure}`)) return;
    try { await act(); route(); } catch (error) { say(error.message, true); }
  } }, word);
}

function say(text, bad) {
  status.textContent = text;
  status.className = bad ? "problem" : "";
}

// --- views

async function overview() {
  const [counts, clouds, nodes, loops] = await Promise.all([call("/jobs/count"), call("/clouds?limit=1000"),
    call("/nodes?state=requested,starting,running,stopping&limit=1000"), call("/loops")]);
  const per = {};
  for (const node of nodes.items) ((per[node.cloud] ||= {})[node.state] ||= []).push(node);
  const count = (cloud, word) => ((per[cloud] || {})[word] || []).length;
  return [el("h1", {}, t.overview), el("h2", {}, t.jobs),
    el("ul", { class: "tiles" }, STATES.map((word) => el("li", { class: `tile state-${word}` },
      el("a", { href: `#/jobs?state=${word}` }, el("strong", {}, counts.by_state[word] ?? 0), el("span", {}, word))))),
    el("h2", {}, t.clouds), table([t.name, t.kind, t.state, t.slots, "starting", "running", "stopping", t.error],
      clouds.items.map((one) => [one.name, one.kind, one.enabled ? t.enabled : t.disabled, one.slots,
        count(one.name, "requested") + count(one.name, "starting"), count(one.name, "running"), count(one.name, "stopping"),
        one.error_text || ""])),
    el("h2", {}, t.loops), table([t.name, t.state, t.every, t.last, t.leader, t.error], loops.items.map((one) => [one.name,
      el("span", { class: one.late ? "state-late" : "state-ok" }, one.late ? t.late : t.ok), seconds(one.interval_s),
      time(one.last_cycle_at), one.leader || "", one.last_error || ""]))];
}

async function jobs(_, query) {
  const chosen = new URLSearchParams([...query].filter(([, value]) => value));
  const body = el("div");
  async function page(cursor) {
    const asked = new URLSearchParams(chosen);
    asked.set("limit", "100");
    if (cursor) asked.set("cursor", cursor);
    const found = await call(`/jobs?${asked}`);
    const more = found.next ? el("button", { type: "button", onclick: async () => { more.remove(); await page(found.next); } }, t.more) : null;
    body.append(table(["ID", t.state, t.user, t.type, t.name, t.node, t.exit, t.ran, t.submitted, t.command],
      found.items.map((one) => [link("jobs", one.id), state(one.state), one.user, one.vm_type, one.name, one.node || "",
        one.exit_code ?? "", seconds(one.ran_s), time(one.submitted_at), el("div", { class: "command" }, one.command.join(" "))])));
    if (more) body.append(more);
  }
  await page();
  const field = (name, word) => el("label", {}, word, el("input", { name, value: chosen.get(name) || "" }));
  const states = el("select", { name: "state" }, el("option", { value: "" }, t.all),
    STATES.map((word) => el("option", { value: word, selected: chosen.get("state") === word }, word)));
  const form = el("form", { onsubmit: (event) => {
    event.preventDefault();
    const asked = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    location.hash = `#/jobs?${asked}`;
  } }, el("label", {}, t.state, states), field("user", t.user), field("vm_type", t.type), field("name", t.name),
    field("batch", t.batch), field("node", t.node), el("button", {}, t.show));
  return [el("h1", {}, t.jobs), form, body];
}

async function job(id) {
  const path = `/jobs/${encodeURIComponent(id)}`;
  const one = await call(path);
  const [why, trace] = await Promise.all([call(`/why/job/${one.id}`), call(`/trace/${one.id}`)]);
  const ended = ENDED.includes(one.state);
  const [out, err] = await Promise.all(["stdout", "stderr"].map((stream) => call(`${path}/output?stream=${stream}`)));
  const act = (verb) => () => call(`${path}/${verb}`, "POST", verb === "cancel" || verb === "release" ? undefined : {});
  return [el("h1", {}, `${t.job} ${one.id} `, state(one.state)), el("p", {}, one.command.join(" ")),
    el("div", { class: "actions" }, ended ? null : button(t.cancel, act("cancel"), true),
      ["pending", "queued"].includes(one.state) ? button(t.hold, act("hold")) : null,
      one.state === "held" ? button(t.release, act("release")) : null,
      ended && one.state !== "succeeded" ? button(t.retry, act("retry")) : null),
    el("h2", {}, t.why), el("p", {}, why.verdict), reasons(why),
    el("h2", {}, t.output), el("pre", { tabindex: "0" }, out || ""), err ? el("pre", { tabindex: "0", class: "problem" }, err) : null,
    el("h2", {}, t.trace), history(trace), el("details", {}, el("summary", {}, t.details), facts(one))];
}

const reasons = (why) => (why.reasons.length ? table([t.where, t.rule, t.reason, t.have, t.need], why.reasons.map((one) =>
  [one.cloud || one.node || "", one.rule, one.text, shown(one.have), shown(one.need)])) : null);
const shown = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
const history = (trace) => table([t.time, "+", t.kind, t.by, t.facts], trace.events.map((one) => [time(one.at),
  one.after_s === null ? "" : seconds(one.after_s), one.kind, one.actor, shown(one.data)]));

async function nodes() {
  const found = await call("/nodes?state=requested,starting,running,stopping&limit=500");
  return [el("h1", {}, t.nodes), table(["ID", t.name, t.cloud, t.state, t.user, t.type, t.cores, t.memory, t.jobs, t.seen],
    found.items.map((one) => [one.id, link("nodes", one.name), one.cloud,
      el("span", {}, state(one.state), one.goal === "run" ? "" : `, ${one.goal}`), one.user, one.vm_type, one.cores,
      `${one.memory_mb} MB`, one.jobs, time(one.last_seen_at)]))];
}

async function node(id) {
  const path = `/nodes/${encodeURIComponent(id)}`;
  const [one, why, trace] = await Promise.all([call(path), call(`/why/node/${encodeURIComponent(id)}`),
    call(`/trace/${encodeURIComponent("node:" + id)}`)]);
  const act = (verb) => () => call(`${path}/${verb}`, "POST");
  const live = ["requested", "starting", "running"].includes(one.state);
  return [el("h1", {}, `${t.node} ${one.name} `, state(one.state)), el("div", { class: "actions" },
    one.state === "running" && one.goal === "run" ? button(t.drain, act("drain")) : null,
    one.goal === "drain" ? button(t.resume, act("resume")) : null, live ? button(t.destroy, act("destroy"), true) : null),
    el("h2", {}, t.why), el("p", {}, why.verdict), reasons(why), el("h2", {}, t.trace), history(trace),
    el("details", {}, el("summary", {}, t.details), facts(one))];
}

async function clouds() {
  const found = await call("/clouds?limit=1000");
  const path = (one) => `/clouds/${encodeURIComponent(one.name)}`;
  return [el("h1", {}, t.clouds), table([t.name, t.kind, t.state, t.priority, t.slots, t.cores, t.memory, t.nodes, t.error, ""],
    found.items.map((one) => [one.name, one.kind, one.enabled ? t.enabled : t.disabled, one.priority, one.slots,
      one.cores < 0 ? "" : one.cores, one.memory_mb < 0 ? "" : `${one.memory_mb} MB`, one.nodes, one.error_text || "",
      one.enabled ? button(t.disable, () => call(`${path(one)}/disable`, "POST"))
        : button(t.enable, () => call(`${path(one)}/enable`, "POST"))]))];
}

async function events() {
  const figures = await (await fetch("/metrics")).text();
  const newest = Number((/^cloudsched_events_last_id (\d+)/m.exec(figures) || [0, 0])[1]);
  const rows = el("tbody");
  const head = el("tr", {}, ["#", t.time, t.kind, t.subject, t.by, t.facts].map((name) => el("th", { scope: "col" }, name)));
  follow(Math.max(0, newest - 50), (one) => {
    const view = one.subject_kind === "job" ? link("jobs", one.subject_id, `job ${one.subject_id}`) : `${one.subject_kind || ""} ${one.subject_id ?? ""}`;
    rows.prepend(el("tr", {}, [one.id ?? "", time(one.at), one.kind === "gap" ? t.gap : one.kind, view, one.actor || "",
      shown(one.data)].map((cell) => el("td", {}, cell))));
    while (rows.children.length > 500) rows.lastChild.remove();
  });
  return [el("h1", {}, t.events), el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), rows))];
}

// --- the event stream: fetch instead of EventSource, which cannot send a key

async function follow(since, take) {
  const cut = new AbortController();
  stop = () => cut.abort();
  let last = null;
  while (!cut.signal.aborted) {
    try {
      const more = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
      const answer = await fetch(API + "/events" + (last === null && since !== null ? `?since=${since}` : ""),
        { headers: headers(more), signal: cut.signal });
      if (!answer.ok) throw new Error((await answer.json()).detail);
      say(t.live);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const parts = (text + value).split("\n\n");
        text = parts.pop();
        for (const part of parts) last = one(part, take) ?? last;
      }
    } catch (error) {
      if (cut.signal.aborted) return;
      say(`${t.away} (${error.message})`, true);
    }
    await new Promise((go) => setTimeout(go, 2000));
  }
}

function one(part, take) {
  const lines = part.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]);
  const found = Object.fromEntries(lines);
  if (found.data) take(JSON.parse(found.data));
  return found.id ?? null;
}

// --- which view

const VIEWS = { "": overview, jobs, nodes, clouds, events };
const SINGLE = { jobs: job, nodes: node };

async function route() {
  const mine = ++visit;
  stop();
  stop = () => {};
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/");
  for (const a of document.querySelectorAll("nav a")) {
    if (a.getAttribute("href") === `#/${view}`) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
  }
  try {
    const draw = id ? SINGLE[view] : VIEWS[view];
    const parts = await (draw || overview)(id && decodeURIComponent(id), new URLSearchParams(query || ""));
    if (mine !== visit) return;
    main.replaceChildren(...parts.filter(Boolean));
    if (view !== "events") say("");
  } catch (error) {
    if (mine !== visit) return;
    if (error.status === 401) askKey(); else main.replaceChildren(el("p", { class: "problem", role: "alert" }, error.message));
  }
}

function askKey() {
  sessionStorage.removeItem("key");
  const field = el("input", { type: "password", name: "key", autocomplete: "off", required: true });
  const form = el("form", { onsubmit: (event) => {
    event.preventDefault();
    sessionStorage.setItem("key", field.value);
    route();
  } }, el("label", {}, t.key, field), el("button", {}, t.enter));
  main.replaceChildren(el("p", { class: "note" }, t.key_needed), form);
  field.focus();
}

addEventListener("hashchange", () => { route(); main.focus(); });
setInterval(() => { if (["", "#/", "#/nodes"].includes(location.hash) && !document.hidden
  && (document.activeElement === main || !main.contains(document.activeElement))) route(); }, 5000);
route();
})();
