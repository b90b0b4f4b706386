"""What does the kboss API say? Every sentence by a key, in Chinese as old clients know it and in English.

Each module registers its own sentences. Errors of services come with a key in their details (`say`), and with what is put in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudsched.dialects.kboss import words

ZH, EN = "zh", "en"
_TEXTS: dict[str, tuple[str, str]] = {}


def register_texts(texts: Mapping[str, tuple[str, str]]) -> None:
    """key -> (Chinese, English); both are `str.format` templates over the same names. A known key may not change."""
    for key, pair in texts.items():
        if _TEXTS.setdefault(key, pair) != pair:
            raise ValueError(f"the text {key!r} is there already")


def say(key: str, language: str, /, **values: Any) -> str:
    """The sentence of a key. Raises KeyError for an unknown one."""
    return _TEXTS[key][language == EN].format(**words.values(values, language))


def known(key: str) -> bool:
    """Is there a sentence of this key?"""
    return key in _TEXTS


def language_of(accept: str) -> str:
    """The language of an Accept-Language header: what it prefers of the two; Chinese without one."""
    best, language = 0.0, ZH
    for part in accept.lower().split(","):
        name, _, more = part.strip().partition(";")
        code = name.strip().partition("-")[0]
        weight = _weight(more)
        if code in (ZH, EN) and weight > best:
            best, language = weight, code
    return language


def _weight(text: str) -> float:
    name, _, value = text.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0


register_texts({
    "tried": ("(试运行, 未执行任何操作) {text}", "(dry run: nothing was done) {text}"),
    "missing": ("缺少参数: {field}", "parameter missing: {field}"),
    "missing_centre_id": ("无算力中心ID", "no compute centre id (cpcid)"),
    "bad_integer": ("参数 {field} 错误: {value} 不是整数 (允许: {allowed})",
                    "parameter {field}: {value} is no such whole number (allowed: {allowed})"),
    "bad_range": ("参数 {field} 错误: {value} 超出范围 (允许: {allowed})",
                  "parameter {field}: {value} is out of range (allowed: {allowed})"),
    "bad_boolean": ("参数 {field} 错误: {value} (允许: true/false/1/0/yes/no/是/否)",
                    "parameter {field}: {value} is neither yes nor no (allowed: true/false/1/0/yes/no)"),
    "bad_json": ("参数 {field} 不是有效的JSON: {where}", "parameter {field} is not valid JSON: {where}"),
    "bad_word": ("参数 {field} 错误: {value} (允许: {allowed})",
                 "parameter {field}: {value} is not allowed (allowed: {allowed})"),
    "bad_date": ("参数 {field} 错误: {value} 不是日期 (格式: YYYY-MM-DD)",
                 "parameter {field}: {value} is no date (format: YYYY-MM-DD)"),
    "bad_text": ("参数 {field} 错误: {value}", "parameter {field}: {value}"),
    "bad_characters": ("参数 {field} 含有无法保存的字符", "parameter {field} holds a character that no value can have"),
    "too_long": ("参数 {field} 过长 (最多 {most} 个字符)", "parameter {field} is too long (at most {most} characters)"),
    "bad_sort": ("参数 sort 错误: {value} (允许: {allowed})", "parameter sort: {value} is not allowed (allowed: {allowed})"),
    "bad_body": ("请求体无法解析: {reason}", "the body cannot be read: {reason}"),
    "bad_parameter": ("参数错误: {reason}", "wrong parameter: {reason}"),
    "no_route": ("接口不存在: {path}", "there is nothing at {path}"),
    "bad_method": ("接口 {path} 不支持 {method}", "{method} is not possible at {path}"),
    "no_authorization": ("未授权: 请提供 Authorization 或 X-API-Key", "not authorized: send Authorization or X-API-Key"),
    "bad_authorization": ("授权信息无效", "the authorization is not valid"),
    "bad_role": ("权限不足: 需要角色 {role}", "this needs the role {role}"),
    "bad_org": ("权限不足: 组织 {org} 不属于当前用户", "the organisation {org} is not the caller's"),
    "bad_network": ("该地址不允许访问", "this address may not call this port"),
    "bad_origin": ("不允许跨站请求", "a web page of another origin may not change anything here"),
    "too_many": ("请求过于频繁, 请稍后再试", "too many wrong keys from this address"),
    "too_large": ("请求体过大 (最多 {most} 字节)", "the body is too large (at most {most} bytes)"),
    "away": ("服务暂时不可用: {reason}", "the service is away: {reason}"),
    "mistake": ("服务器内部错误, 详情见日志", "the server made a mistake; its log has the details"),
})
