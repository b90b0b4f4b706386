"""Which words does the dashboard use? One small table; English is what a missing word falls back to."""

from __future__ import annotations

LANGUAGES = ("en", "zh")

_TABLE: dict[str, tuple[str, str]] = {
    "overview": ("Overview", "概览"), "jobs": ("Jobs", "作业"), "nodes": ("Nodes", "节点"), "clouds": ("Clouds", "云"),
    "events": ("Events", "事件"), "loops": ("Loops", "循环"), "api": ("API", "接口"), "job": ("Job", "作业"),
    "node": ("Node", "节点"), "cloud": ("Cloud", "云"), "state": ("State", "状态"), "total": ("Total", "总计"),
    "name": ("Name", "名称"), "user": ("User", "用户"), "type": ("Type", "类型"), "command": ("Command", "命令"),
    "submitted": ("Submitted", "提交时间"), "ran": ("Ran", "运行时长"), "exit": ("Exit", "退出码"),
    "cores": ("Cores", "核数"), "memory": ("Memory", "内存"), "slots": ("Slots", "槽位"), "kind": ("Kind", "种类"),
    "priority": ("Priority", "优先级"), "enabled": ("enabled", "已启用"), "disabled": ("disabled", "已停用"),
    "batch": ("Batch", "批次"),
    "seen": ("Last seen", "最近联系"), "time": ("Time", "时间"), "subject": ("Subject", "对象"), "by": ("By", "操作者"),
    "facts": ("Facts", "详情"), "leader": ("Leader", "主导者"), "every": ("Every", "间隔"), "last": ("Last cycle", "上次完成"),
    "error": ("Error", "错误"), "none": ("Nothing here yet.", "暂无内容。"), "filter": ("Filter", "筛选"),
    "all": ("all", "全部"), "show": ("Show", "显示"), "more": ("More", "更多"), "why": ("Why", "原因"),
    "trace": ("Trace", "轨迹"), "output": ("Output", "输出"), "details": ("Details", "详细信息"), "rule": ("Rule", "规则"),
    "where": ("Where", "位置"), "reason": ("Reason", "说明"), "have": ("Has", "现有"), "need": ("Needs", "需要"),
    "cancel": ("Cancel", "取消"), "hold": ("Hold", "挂起"), "release": ("Release", "释放"), "retry": ("Retry", "重试"),
    "drain": ("Drain", "排空"), "resume": ("Resume", "恢复"), "destroy": ("Destroy", "销毁"),
    "enable": ("Enable", "启用"), "disable": ("Disable", "停用"), "sure": ("Are you sure?", "确定吗？"),
    "key": ("Access key", "访问密钥"), "enter": ("Enter", "进入"), "leave": ("Forget key", "清除密钥"),
    "key_needed": ("This server asks for an access key.", "此服务器需要访问密钥。"),
    "live": ("live", "实时"), "away": ("connection lost, trying again", "连接已断开，正在重试"),
    "gap": ("events are missing here", "此处缺少部分事件"), "skip": ("Skip to content", "跳到内容"),
    "no_script": ("This is the overview; the other pages need JavaScript. Everything is in the API and the command line.",
                  "这是概览；其他页面需要 JavaScript。全部功能也可通过接口和命令行使用。"),
    "updated": ("updated", "更新于"), "method": ("Method", "方法"), "path": ("Path", "路径"), "role": ("Role", "角色"),
    "what": ("What", "说明"), "query": ("Query", "查询参数"), "body": ("Body", "请求体"), "answers": ("Answers", "响应"),
    "document": ("OpenAPI document", "OpenAPI 文档"), "late": ("late", "延迟"), "ok": ("ok", "正常"),
}


def words(language: str) -> dict[str, str]:
    """Every word in a language of LANGUAGES."""
    column = LANGUAGES.index(language)
    return {name: texts[column] or texts[0] for name, texts in _TABLE.items()}
