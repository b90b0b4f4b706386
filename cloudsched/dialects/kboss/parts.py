"""How are parts, prices, quotes, free GPUs, fitting, use and budgets told by the kboss API? (contract: cpcwidget, cpcbuy)

What is bought may be looked at by every organisation; parts and prices are changed by the one whose centre it is.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from cloudsched.dialects.kboss.calls import PCAPI, Answer, Call, Refusal, Route, bare, no, ok, register_texts
from cloudsched.domain import pricing
from cloudsched.domain.stock import ASKED, STANDARD, Part, shown
from cloudsched.services.centre import centres, fitting, fitting_live, metering, parts, quotes
from cloudsched.services.centre.centres import Centre
from cloudsched.services.centre.metering import Spending
from cloudsched.services.centre.parts import Listed

_DAY_S = 86400
_ACCESS = ("cluster_type", "kubeconfig", "host", "port", "user", "password", "key", "host_key")
_SORTED = ("id", "type", "model", "unit_price", "resource_unit", "stock", "consumed", "charge_unit", "account_unit",
           "update_time")
_CSV = {"Content-Type": "text/csv; charset=utf-8"}


# parts


def add(call: Call) -> Answer:
    """A new part, or with `add_opt=yes` more stock of one that exists."""
    centre = _centre(call, own=True)
    kind = call.required("type").strip()
    cluster = parts.cluster_of(centre, (call.text("clusterid") or "").strip())
    part = parts.add(
        centre.key, kind=kind, model=_given(call, "model", STANDARD), unit_price=call.required("unit_price"),
        resource_unit=_given(call, "resource_unit"), charge_unit=_given(call, "charge_unit", parts.CHARGE_UNIT),
        account_unit=_given(call, "account_unit", parts.ACCOUNT_UNIT), stock=_given(call, "stock", "0"), cluster_key=cluster,
        add_stock=call.boolean("add_opt"), actor=call.actor, dry_run=call.dry_run)
    return ok(call, "part_added", {
        "account_unit": part.account_unit, "charge_unit": part.charge_unit, "cpcid": centre.key, "model": part.model,
        "resource_unit": part.resource_unit, "stock": _given(call, "stock", "0"), "type": part.type,
        "unit_price": part.unit_price, "id": part.key, "update_time": centres.shown_time(part.updated_at)})


def listed(call: Call) -> Answer:
    """All parts of a centre with what each cluster has of them."""
    centre = _centre(call)
    kind = call.word("type", tuple(ASKED))
    found = sorted(parts.listed(centre.key), key=lambda one: (one.part.type, -one.part.updated_at))  # as the contract's list is
    rows = [_row(one) for one in found if kind in (None, one.part.type)]
    return ok(call, "parts_listed", call.page.of(rows, _SORTED))


def change(call: Call) -> Answer:
    """Another price; nothing else of a part changes."""
    centre = _centre(call, own=True)
    key = _given(call, "id")
    if not key:
        call.required("type")
        call.required("model")
    part = parts.set_price(centre.key, key=key, kind=_given(call, "type"), model=_given(call, "model"),
                           unit_price=call.required("unit_price"), actor=call.actor, dry_run=call.dry_run)
    return ok(call, "part_changed", {"cpcid": centre.key, "id": part.key, "unit_price": part.unit_price})


def remove(call: Call) -> Answer:
    """A part goes, when there is no stock and no consumption of it."""
    centre = _centre(call, own=True)
    part = parts.remove(centre.key, call.required("id").strip(), actor=call.actor, dry_run=call.dry_run)
    return ok(call, "part_removed", {"cpcid": centre.key, "id": part.key})


def rebuild(call: Call) -> Answer:
    """Count the books again from hosts and instances; what was not so."""
    centre = _centre(call, own=True)
    found = parts.recount(centre.key, actor=call.actor, dry_run=call.dry_run)
    rows = [{**asdict(one), "stock": _change(one.type, one.stock), "consumed": _change(one.type, one.consumed),
             "oversold": shown(one.type, one.oversold, ASKED[one.type]), "unit": ASKED[one.type]} for one in found]
    return ok(call, "parts_rebuilt", {"total": len(rows), "rows": rows}, count=len(rows))


# what can be bought


def quote(call: Call) -> Answer:
    """What parts cost for a time; each line that cannot be had says why."""
    centre = _centre(call)
    resources = call.json("resources")
    nested = resources if isinstance(resources, dict) and "resources" in resources else {}
    duration = call.integer("duration", low=1, high=quotes.MOST_DURATION) or _whole(nested.get("duration"))
    if duration is None:
        raise Refusal("missing", field="duration")
    unit = (call.text("duration_unit") or "").strip() or str(nested.get("duration_unit") or "小时")
    cluster = parts.cluster_of(centre, _given(call, "clusterid"))
    found = quotes.quote(centre.key, resources, duration=duration, duration_unit=unit, cluster_key=cluster or None)
    said = call.params["duration"] if (call.text("duration") or "").strip() else nested.get("duration", duration)
    times = {"duration": said, "duration_unit": unit}
    told = "; ".join(dict.fromkeys(_why(call, refusal) for refusal in found.refusals))
    data = {"total_price": pricing.number(found.total), "currency": pricing.CURRENCY,
            "price_details": [_line(call, entry, times) for entry in found.entries],
            "status": not told, "message": told or call.say("quote_fine"), **times}
    return no(call, "told", data, told=told) if told else ok(call, "quoted", data)


def gpus(call: Call) -> Answer:
    """Free cards per model over a centre, a cluster, or everything."""
    centre = _centre(call).key if _given(call, "cpcid") else None
    cluster = _given(call, "clusterid") or None
    if cluster is not None:
        parts.cluster_of(None if centre is None else _centre(call), cluster)
    return ok(call, "gpus_listed", parts.free_gpus(centre=centre, cluster=cluster))


def unfit(call: Call) -> Answer:
    """The products that no node of a cluster has room for: by the books, then by the live cluster."""
    centre = _centre(call)
    cluster = parts.cluster_of(centre, call.required("clusterid").strip())
    wanted = fitting.products(_resources(call))
    found = fitting.unfit(centre.key, cluster, wanted, labels=fitting.selector(call.text("kyylabels")),
                          ask=fitting_live.of_cluster(cluster, call.settings))
    more: dict[str, Any] = {"reason": found.reason}
    if call.boolean("why"):
        more["why"] = {key: {"code": refusal.code, **refusal.facts} for key, refusal in found.why.items()}
    return ok(call, "fitted", list(found.ids), more=more)


def unfit_here(call: Call) -> Answer:
    """The same of the executor's half: the cluster of a kubeconfig (or of an account on its controller), the list alone."""
    wanted, labels = fitting.products(_resources(call)), fitting.selector(call.text("kyylabels"))
    if not _given(call, "host"):
        call.required("kubeconfig")
    where = {name: value for name in _ACCESS if (value := call.text(name))}
    found = fitting.live(lambda: fitting_live.free_nodes(where, call.settings))(wanted, labels)
    return bare(call, list(dict.fromkeys(product.id for product in wanted if product.id in found)))


# what was used


def usage(call: Call) -> Answer:
    """What instances used and what it cost, by hour, day, instance, cluster or organisation."""
    page = call.page
    found = metering.usage(by=call.word("by", metering.GROUPS, "day") or "day", **_span(call), limit=page.rows or 1000,
                           offset=(page.page - 1) * (page.rows or 1000))
    first = (page.page - 1) * (page.rows or 1000) + 1
    rows = [{**_used(row), "row_num_": number} for number, row in enumerate(found["rows"], first)]
    return ok(call, "usage_listed", {"total": found["total"], "rows": rows, "total_cost": _yuan(found["cost_nano"]),
                                     "currency": pricing.CURRENCY, "timezone": "UTC"})


def export(call: Call) -> Answer:
    """The same as CSV, every hour of every instance and part a line."""
    span = _span(call)
    text = metering.export(**span)
    name = f"usage-{datetime.now(UTC):%Y%m%d%H%M%S}.csv"
    answer = bare(call, text.encode("utf-8-sig"))
    return Answer(answer.status, answer.text, answer.data, answer.half,
                  more={**_CSV, "Content-Disposition": f'attachment; filename="{name}"'}, bare=True)


def budgets(call: Call) -> Answer:
    """What an organisation may spend this month and has spent; an administrator who names none sees all that have a budget."""
    rows = [_budget(one) for one in metering.budgets(call.scope)]
    return ok(call, "budgets_listed", call.page.of(rows, ("orgid", "spent", "amount")))


def set_budget(call: Call) -> Answer:
    """What an organisation may spend in a month; a blank amount: no limit. What is not said stays as it is."""
    org = call.required("orgid", "missing_org").strip()
    found = metering.set_budget(
        org, amount=call.text("amount"), warn_percent=call.integer("warn", low=1, high=100), hard=_truth(call, "hard"),
        stop=_truth(call, "stop"), actor=call.actor, dry_run=call.dry_run)
    return ok(call, "budget_set", _budget(found))


def _centre(call: Call, *, own: bool = False) -> Centre:
    key = call.required("cpcid", "missing_centre_id").strip()
    return centres.find(key, scope=call.scope if own else None)


def _given(call: Call, name: str, default: str = "") -> str:
    return (call.text(name, most=4096) or "").strip() or default


def _truth(call: Call, name: str) -> bool | None:
    """A truth; None for one that was not said."""
    return call.boolean(name) if (call.text(name) or "").strip() else None


def _resources(call: Call) -> Any:
    found = call.json("resources")
    if found is None:
        raise Refusal("missing", field="resources")
    return found


def _row(one: Listed) -> dict[str, Any]:
    part = one.part
    return {
        "id": part.key, "cpcid": part.centre, "type": part.type, "model": part.model,
        "unit_price": pricing.number(Fraction(part.unit_price)) if part.unit_price else None, "resource_unit": part.resource_unit,
        "stock": _of(part, one.stock), "consumed": _of(part, one.consumed), "charge_unit": part.charge_unit,
        "account_unit": part.account_unit, "update_time": centres.shown_time(part.updated_at),
        "import_export": [{"clusterid": book.cluster_key, "clustername": book.cluster_name, "stock": _of(part, book.stock),
                           "consumed": _of(part, book.consumed)} for book in one.books if book.cluster_key],
    }


def _of(part: Part, base: int) -> int | float:
    return shown(part.type, base, part.resource_unit)


def _change(kind: str, pair: tuple[int, int]) -> dict[str, int | float]:
    return {name: shown(kind, value, ASKED[kind]) for name, value in zip(("books", "counted"), pair, strict=True)}


def _whole(value: Any) -> int | None:
    """The duration that stands in `resources`; None for none. Raises Refusal."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    if number is None or isinstance(value, bool):
        raise Refusal("bad_integer", field="resources.duration", value=text[:80], allowed=f"1..{quotes.MOST_DURATION}")
    if not 1 <= number <= quotes.MOST_DURATION:
        raise Refusal("bad_range", field="resources.duration", value=text[:80], allowed=f"1..{quotes.MOST_DURATION}")
    return number


def _why(call: Call, refusal: pricing.Refusal) -> str:
    key = {"short": "stock_short", "no_type": "quote_no_type", "no_model": "quote_no_model", "bad_amount": "quote_bad_amount",
           "no_amount": "quote_no_amount", "no_price": "quote_no_price"}
    return call.say(key[refusal.code], **quotes.facts(refusal))


def _line(call: Call, entry: quotes.Entry, times: dict[str, Any]) -> dict[str, Any]:
    if entry.refusal is not None:
        return {"resource_type": entry.type, "error": _why(call, entry.refusal)}
    assert entry.line is not None
    view = quotes.view(entry.line)
    return {**{name: value for name, value in view.items() if name != "subtotal"}, **times, "subtotal": view["subtotal"]}


def _span(call: Call) -> dict[str, Any]:
    month = _given(call, "month")
    since, until = _month(month) if month else (_time(call, "from", end=False), _time(call, "to", end=True))
    return {"org": call.scope, "since": since, "until": until, "instance": _given(call, "id") or None,
            "centre": _given(call, "cpcid") or None, "cluster": _given(call, "clusterid") or None}


def _month(text: str) -> tuple[float | None, float | None]:
    try:
        begin = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        end = (begin + timedelta(days=31)).replace(day=1)
    except (ValueError, OverflowError):
        raise Refusal("bad_word", field="month", value=text[:40], allowed="YYYY-MM") from None
    return begin.timestamp(), end.timestamp()


def _time(call: Call, name: str, *, end: bool) -> float | None:
    """A day or a time of UTC; as an end a day counts whole."""
    text = _given(call, name)
    if not text:
        return None
    for form, whole_day in (("%Y-%m-%d", end), ("%Y-%m-%d %H:%M:%S", False), ("%Y-%m-%dT%H:%M:%SZ", False)):
        try:
            at = datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
        return at + (_DAY_S if whole_day else 0)
    raise Refusal("bad_word", field=name, value=text[:40], allowed="YYYY-MM-DD, YYYY-MM-DD HH:MM:SS")


_WHO = {"org": "orgid", "centre": "cpcid", "cluster_key": "clusterid", "instance": "id"}


def _used(row: dict[str, Any]) -> dict[str, Any]:
    found = {_WHO[name]: row[name] for name in _WHO if name in row}
    if row.get("at") is not None:
        found["time"] = datetime.fromtimestamp(row["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    sums = {name: row[name] for name in ("seconds", "core_hours", "memory_gi_hours", "disk_gi_hours", "gpu_hours")}
    return {**found, **sums, "cost": _yuan(row["cost_nano"]), **({"unpriced_hours": row["unpriced"]} if row["unpriced"] else {})}


def _yuan(nano: int) -> int | float:
    return pricing.number(Fraction(nano, pricing.NANO))


def _budget(one: Spending) -> dict[str, Any]:
    budget = one.budget
    limit = {} if budget is None else {"amount": _yuan(budget.amount_nano), "warn": budget.warn_percent,
                                       "hard": bool(budget.hard), "stop": bool(budget.stop),
                                       "update_time": centres.shown_time(budget.updated_at)}
    none = dict.fromkeys(("amount", "warn", "hard", "stop", "update_time"))
    return {"orgid": one.org, "month": one.month, "spent": _yuan(one.spent_nano), "currency": pricing.CURRENCY,
            "over": one.over, "near": one.to_warn, **none, **limit}


register_texts({
    "twice": ("参数重复: {field}", "a parameter was given twice: {field}"),
    "parts_listed": ("获取算力部件成功", "parts listed"),
    "part_added": ("新增算力部件成功", "part added"),
    "part_exists": ("该部件已存在,请前往编辑!", "this part exists already: edit it"),
    "part_changed": ("更新算力部件成功", "part updated"),
    "part_removed": ("删除算力部件成功", "part removed"),
    "part_missing": ("算力部件不存在: {part}", "the centre has no part {part}"),
    "part_in_use": ("{type} {model} 仍有库存或消耗, 不能移除 (库存: {stock}, 消耗: {consumed})",
                    "{type} {model} has stock or consumption and stays (stock: {stock}, consumed: {consumed})"),
    "parts_rebuilt": ("库存重算完成, 差异 {count} 处", "books counted again, {count} differences"),
    "stock_short": ("{type} {model} 库存不足 (库存: {stock}, 请求: {asked})",
                    "{type} {model}: not enough in stock (stock: {stock}, asked for: {asked})"),
    "stock_in_use": ("{type} {model} 正在使用, 库存不能减少 (集群: {cluster}, 可减少: {stock}, 请求减少: {asked})",
                     "{type} {model} is in use (cluster: {cluster}, can be taken away: {stock}, asked for: {asked})"),
    "no_cluster_here": ("算力集群不存在: {id}", "there is no cluster {id} in this centre"),
    "told": ("{told}", "{told}"),
    "quoted": ("获取部件组合价格成功", "parts priced"),
    "quote_fine": ("汇算正常", "all lines priced"),
    "quote_no_type": ("没有该类型组件", "there is no part of this type"),
    "quote_no_model": ("无效的 {type} 部件型号: {model}", "there is no {type} part of model {model}"),
    "quote_bad_amount": ("部件用量错误: {reason}", "wrong amount: {reason}"),
    "quote_no_amount": ("缺少部件用量: {field}", "amount missing: {field}"),
    "quote_no_price": ("{type} {model} 尚未定价, 无法计价", "{type} {model} has no price yet"),
    "part_price_differs": ("{type} {model} 的单价是 {price}, 与提交的 {given} 不同: 库存未变, 修改单价请用 update_cpcwidget",
                           "{type} {model} costs {price}, not {given}: nothing was added; update_cpcwidget changes the price"),
    "gpus_listed": ("获取集群GPU库存成功", "free GPUs listed"),
    "fitted": ("获取不可部署产品ID成功", "products that fit nowhere listed"),
    "usage_listed": ("获取用量成功", "use listed"),
    "budgets_listed": ("获取预算成功", "budgets listed"),
    "budget_set": ("设置预算成功", "budget set"),
    "budget_spent": ("组织 {org} {month} 的预算已用完 (预算: {amount}元, 已用: {spent}元), 不能新增资源实例",
                     "the budget of {org} for {month} is spent (budget: {amount} yuan, spent: {spent} yuan): nothing new starts"),
    "budget_spent_start": ("组织 {org} {month} 的预算已用完 (预算: {amount}元, 已用: {spent}元), 预算不允许启动资源实例",
                           "the budget of {org} for {month} is spent (budget: {amount} yuan, spent: {spent} yuan): it does not "
                           "allow starting the instance"),
    "budget_spent_more": ("组织 {org} {month} 的预算已用完 (预算: {amount}元, 已用: {spent}元), 预算不允许增加资源实例的用量",
                          "the budget of {org} for {month} is spent (budget: {amount} yuan, spent: {spent} yuan): it does not "
                          "allow the instance to use more"),
    "missing_org": ("无组织ID", "no organisation id (orgid)"),
})

_WIDGET, _BILL = "/dev/cpcc/cpcwidget", "/dev/cpcc/cpcbill"
ROUTES = (
    Route(f"{_WIDGET}/add_cpcwidget.dspy", add),
    Route(f"{_WIDGET}/get_cpcwidget.dspy", listed, role="viewer"),
    Route(f"{_WIDGET}/update_cpcwidget.dspy", change),
    Route(f"{_WIDGET}/delete_cpcwidget.dspy", remove),
    Route(f"{_WIDGET}/rebuild_cpcwidget.dspy", rebuild),
    Route(f"{_WIDGET}/accrual_price.dspy", quote, role="viewer"),
    Route(f"{_WIDGET}/obtaining_gpuinfo.dspy", gpus, role="viewer"),
    Route("/dev/cpcc/cpcbuy/determine_accommodat.dspy", unfit, role="viewer"),
    Route("/pcapi/api/v1/cluster/common/determine_accommodat", unfit_here, half=PCAPI, changes=False),
    Route(f"{_BILL}/get_usage.dspy", usage, role="viewer"),
    Route(f"{_BILL}/export_usage.dspy", export, role="viewer"),
    Route(f"{_BILL}/get_budget.dspy", budgets, role="viewer"),
    Route(f"{_BILL}/set_budget.dspy", set_budget, role="admin"),
)
