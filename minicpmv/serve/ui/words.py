"""Everything the page says, in English and Chinese."""

from typing import Any, Literal

Language = Literal["en", "zh"]

LANGUAGES: dict[str, Language] = {"EN": "en", "中文": "zh"}

_WORDS: dict[str, tuple[str, str]] = {
    # the page
    "chat": ("Chat", "对话"),
    "compare": ("Compare", "对比"),
    "live": ("Live", "实时"),
    "model": ("Model", "模型"),
    "language": ("Language", "语言"),
    "dark": ("Light or dark", "浅色或深色"),
    "connected": ("Connected", "已连接"),
    "unreachable": ("Server not reached", "无法连接服务器"),
    # asking
    "ask_placeholder": (
        "Ask; paste or drop files",  # one line on a phone
        "输入问题；可粘贴或拖入文件",
    ),
    "welcome": ("Show me something", "给我看点什么"),
    "welcome_more": (
        "Pictures, videos and PDF documents stay between this page and your server.",
        "图片、视频和 PDF 文档只在此页面与您的服务器之间传输。",
    ),
    "nano_note": (
        "nano is a small demo model: it knows drawn pictures and answers in English.",
        "nano 是小型演示模型：只认识绘制的图片，并以英文回答。",
    ),
    "new_chat": ("New chat", "新对话"),
    "camera": ("Camera", "相机"),
    "camera_take": ("Take the picture", "拍照"),
    "close": ("Close", "关闭"),
    # the panel
    "seen": ("What the model sees", "模型看到的内容"),
    "seen_hint": (
        "Attach a picture: here you see how it is cut into slices, and what it costs.",
        "添加图片后，这里会显示它如何切片以及消耗多少 token。",
    ),
    "seen_unknown": (
        "The server does not say how it cuts pictures.",
        "服务器未提供图片切片方式。",
    ),
    "seen_unread": ("{name} cannot be shown here.", "无法在此显示 {name}。"),
    "whole": ("{tokens} tokens, one slice", "{tokens} 个 token，未切分"),
    "cut": (
        "{tokens} tokens, {slices} slices: the whole and {rows} x {cols}",
        "{tokens} 个 token，{slices} 个切片：整图与 {rows} x {cols}",
    ),
    "size": ("{width} x {height} pixels", "{width} x {height} 像素"),
    "total": ("{tokens} visual tokens in all", "共 {tokens} 个视觉 token"),
    "total_context": (
        "{tokens} visual tokens in all, {share} of the context",
        "共 {tokens} 个视觉 token，占上下文的 {share}",
    ),
    "options": ("Options", "选项"),
    "system": ("System prompt", "系统提示词"),
    "system_hint": ("How the model is to answer", "希望模型如何回答"),
    "draw": ("Choice of words", "用词方式"),
    "draw_model": ("default", "模型默认"),
    "draw_likeliest": ("likeliest", "最可能"),
    "draw_sampled": ("sampled", "随机采样"),
    "temperature": ("Temperature", "温度"),
    "top_p": ("Top p", "Top p"),
    "seed": ("Seed", "随机种子"),
    "seed_hint": ("empty: another one each time", "留空：每次不同"),
    "max_tokens": ("Longest answer, tokens", "最长回答（token）"),
    "penalty": ("Repetition penalty", "重复惩罚"),
    "slices": ("Slices per picture", "每图切片数"),
    "slices_hint": ("0: as many as the model takes", "0：模型上限"),
    "frames": ("Frames per video", "每段视频帧数"),
    "frames_hint": ("0: one a second", "0：每秒一帧"),
    "pages": ("Pages of a document", "文档页码"),
    "pages_hint": ("1-3, 7; empty: the first {most}", "如 1-3, 7；留空：前 {most} 页"),
    "probabilities": ("Colour by probability", "按概率着色"),
    "likely": ("likely", "概率高"),
    "unlikely": ("unlikely", "概率低"),
    # under an answer
    "cost": ("{prompt} + {answer} tokens", "{prompt} + {answer} 个 token"),
    "cost_cached": (
        "{prompt} ({cached} remembered) + {answer} tokens",
        "{prompt}（{cached} 个已缓存）+ {answer} 个 token",
    ),
    "first": ("first after {seconds} s", "首字 {seconds} 秒"),
    "took": ("{seconds} s in all", "共 {seconds} 秒"),
    "rate": ("{rate} tokens/s", "{rate} token/秒"),
    "waiting": ("Looking and reading", "正在看图和阅读"),
    "copy": ("Copy the answer", "复制回答"),
    "retry": ("Answer again", "重新回答"),
    "edit": ("Edit the question", "编辑问题"),
    "stopped": ("stopped", "已停止"),
    "cut_off": ("cut at the longest answer", "已达最长回答"),
    # comparing
    "compare_hint": (
        "One question, two models or two settings, side by side.",
        "同一问题，两种模型或设置，并排对比。",
    ),
    "answer": ("Answer {letter}", "回答 {letter}"),
    "ask": ("Ask", "提问"),
    "same": ("Both answers are the same.", "两个回答相同。"),
    # live
    "live_hint": (
        "The newest frame of your camera, asked about again and again.",
        "反复就相机的最新画面提问。",
    ),
    "live_start": ("Start camera", "开启相机"),
    "live_stop": ("Stop camera", "关闭相机"),
    "live_flip": ("Other camera", "切换相机"),
    "live_question": ("Question", "问题"),
    "live_question_value": ("What do you see? Answer briefly.", "你看到了什么？请简短回答。"),
    "live_rate": ("Frames per second, at most", "每秒帧数上限"),
    "live_together": ("Frames shown together", "一次展示的帧数"),
    "live_length": ("Longest answer, tokens", "最长回答（token）"),
    "live_delay": ("delay", "延迟"),
    "live_first": ("first word", "首字"),
    "live_answered": ("answered", "已回答"),
    "live_dropped": ("dropped", "已丢弃"),
    "live_waiting": ("The camera is off.", "相机已关闭。"),
    "live_refused": (
        "The camera was refused. Allow it for this page in the browser.",
        "相机被拒绝。请在浏览器中允许此页面使用。",
    ),
    "live_insecure": (
        "Browsers give a camera only to pages of https or localhost. Start with --ssl-certfile "
        "and --ssl-keyfile, or forward the port.",
        "浏览器只允许 https 或 localhost 页面使用相机。"
        "请使用 --ssl-certfile 和 --ssl-keyfile 启动，或转发端口。",
    ),
    "live_missing": ("No camera was found.", "未找到相机。"),
    # what goes wrong
    "error": ("Not answered", "未能回答"),
    "nothing_asked": ("Write a question, or attach a picture.", "请输入问题或添加图片。"),
    "gone": ("That is no longer there. Reload the page.", "内容已不存在，请重新加载页面。"),
    "no_model": ("No model is offered by the server.", "服务器未提供模型。"),
    "not_uploaded": (
        "That file was not uploaded here. Attach it again.",
        "该文件并非在此上传，请重新添加。",
    ),
    "upload_gone": (
        "The file is no longer kept here. Attach it again.",
        "该文件已被清理，请重新添加。",
    ),
    "kind_unknown": (
        "{name} is neither a picture, nor a video, nor a PDF document. Attach one of those.",
        "{name} 不是图片、视频或 PDF 文档，请换一个文件。",
    ),
    "pages_unreadable": (
        "Pages {pages} cannot be read. Write them like 1-3, 7.",
        "无法识别页码 {pages}，请写成 1-3, 7 的形式。",
    ),
    "pages_missing": (
        "Pages {pages} were asked for; the document has 1 to {count}.",
        "所选页码为 {pages}，但文档只有第 1 至 {count} 页。",
    ),
    "pages_many": (
        "Pages {pages} are more than {most}, the most in one message. Choose fewer.",
        "页码 {pages} 超过每条消息上限 {most} 页，请减少页数。",
    ),
    "document_locked": (
        "{name} asks for a password. Save it without one, and attach that.",
        "{name} 需要密码，请另存为无密码的文件后再添加。",
    ),
    "document_damaged": (
        "{name} is damaged, or no PDF document. Attach another.",
        "{name} 已损坏或不是 PDF 文档，请换一个文件。",
    ),
    "seed_unreadable": (
        "The seed is {value}; it must be a whole number of at least 0.",
        "随机种子为 {value}，应为不小于 0 的整数。",
    ),
}


def say(key: str, language: str, **values: Any) -> str:
    """A text of the page in "en" or "zh"; any other language is answered in English."""
    english, chinese = _WORDS[key]
    return (chinese if language == "zh" else english).format(**values)


def language_of(accepted: str | None) -> Language:
    """The language to begin in, by the header Accept-Language."""
    first = (accepted or "").split(",")[0].strip().lower()
    return "zh" if first.startswith("zh") else "en"


class PageError(ValueError):
    """What a person did that cannot be done, as a key of the texts and its values."""

    def __init__(self, key: str, **values: Any):
        super().__init__(say(key, "en", **values))
        self.key = key
        self.values = values

    def __reduce__(self) -> tuple[Any, ...]:
        return _told, (self.key, self.values)

    def text(self, language: str) -> str:
        return say(self.key, language, **self.values)


def _told(key: str, values: dict[str, Any]) -> PageError:
    return PageError(key, **values)
