"""Words of the demo world in two languages, and the facts about them.

A `Word` is one thing with two names. The names are strings that carry what a sentence pattern needs beside them: the Chinese one its
measure word (`{animal.m}`) or, for a number, the form that counts (`{n.counting}`), the English one its article and plural
(`{animal.a}`, `{animal.s}`). The lists are small on purpose: the
English side fits a vocabulary of 1,024 pieces and the Chinese side uses few enough characters that most of some 640 new pieces can be
whole words.
"""

from dataclasses import dataclass
from typing import Final


class Chinese(str):
    """A Chinese name; `m` is the measure word that counts it."""

    __slots__ = ("m",)
    m: str

    def __new__(cls, text: str, m: str = "个") -> "Chinese":
        """Makes the name with its measure word."""
        self = super().__new__(cls, text)
        self.m = m
        return self

    @property
    def counting(self) -> str:
        """A number as it stands before a measure word: two is 二 as a number, but 两 of anything."""
        return "两" if self == "二" else str(self)


class English(str):
    """An English name with the forms that a sentence needs.

    Attributes:
      a: the name with its article; a mass noun has "some".
      s: the plural; a mass noun has none of its own.
      general: the name as a statement about the whole kind says it: "a rabbit", but "bread" and, of a colour or a job, "red", "doctor".
    """

    __slots__ = ("a", "general", "s")
    a: str
    s: str
    general: str

    def __new__(cls, text: str, s: str = "", *, mass: bool = False, bare: bool = False) -> "English":
        """Makes the name with its plural (regular unless given); `bare` names take no article in a general statement."""
        self = super().__new__(cls, text)
        article = "some" if mass else "an" if text[0] in "aeiou" else "a"
        self.a = f"{article} {text}"
        self.s = text if mass else s or f"{text}s"
        self.general = text if mass or bare else self.a
        return self


@dataclass(frozen=True, slots=True)
class Word:
    """One thing of the world with its two names."""

    en: English
    zh: Chinese


def _words(table: str, *, mass: bool = False, bare: bool = False) -> tuple[Word, ...]:
    """Reads lines of `Chinese/measure English[/plural]`, separated by commas or line ends."""
    words = []
    for entry in table.replace("\n", ",").split(","):
        if not entry.strip():
            continue
        zh, _, en = entry.strip().partition(" ")
        zh, _, measure = zh.partition("/")
        en, _, plural = en.partition("/")
        words.append(Word(English(en, plural, mass=mass, bare=bare), Chinese(zh, measure or "个")))
    return tuple(words)


PEOPLE: Final = _words("汤姆 Tom, 安娜 Anna, 玛丽 Mary, 彼得 Peter, 杰克 Jack, 露西 Lucy, 大卫 David, 约翰 John, 莉莉 Lily, 艾米 Amy")
ANIMALS: Final = _words("""
    兔子/只 rabbit, 老虎/只 tiger, 狮子/头 lion, 大象/头 elephant, 熊猫/只 panda, 猴子/只 monkey, 狐狸/只 fox/foxes, 乌龟/只 turtle
    小猫/只 cat, 小狗/条 dog, 山羊/只 goat, 小马/匹 pony/ponies, 小鸟/只 bird, 鸭子/只 duck""")
FRUIT: Final = _words("苹果 apple, 香蕉/根 banana, 西瓜 watermelon, 葡萄/串 grape, 桃子 peach/peaches, 柠檬 lemon")
DISHES: Final = _words("面包/块 bread, 米饭/碗 rice, 奶酪/块 cheese, 豆腐/块 tofu, 牛肉/块 beef, 蛋糕/块 cake", mass=True)
VEGETABLES: Final = _words("土豆 potato/potatoes, 白菜/棵 cabbage, 胡萝卜/根 carrot, 南瓜 pumpkin")
CLOTHES: Final = _words("帽子/顶 hat, 裙子/条 skirt, 衬衫/件 shirt, 大衣/件 coat, 袜子/双 sock, 手套/双 glove")
TOOLS: Final = _words("""
    铅笔/支 pencil, 雨伞/把 umbrella, 钥匙/把 key, 手机/部 phone, 地图/张 map, 词典/本 dictionary/dictionaries, 书包 bag, 杯子 cup""")
FURNITURE: Final = _words("桌子/张 table, 椅子/把 chair, 沙发/张 sofa, 书架 shelf/shelves, 衣柜 wardrobe, 柜子 cabinet")
VEHICLES: Final = _words("火车/列 train, 飞机/架 plane, 汽车/辆 car, 公交车/辆 bus/buses, 轮船/艘 ship, 地铁/列 subway")
COLOURS: Final = _words(
    "红色 red, 黄色 yellow, 蓝色 blue, 绿色 green, 白色 white, 黑色 black, 灰色 grey, 紫色 purple, 粉色 pink, 棕色 brown", bare=True
)
MOODS: Final = _words("高兴 happy, 安静 quiet, 勇敢 brave, 聪明 clever, 害羞 shy, 好奇 curious")
WEATHER: Final = _words("晴天 sunny, 雨天 rainy, 雪天 snowy, 阴天 cloudy")
ACTIVITIES: Final = _words(
    "看书 read, 画画 draw, 唱歌 sing, 跳舞 dance, 跑步 run, 游泳 swim, 散步 walk, 睡觉 sleep, 下棋 play chess, 做饭 cook"
)
ROOMS: Final = _words("厨房 kitchen, 房间 room")
SHOPS: Final = _words("超市 supermarket, 商店 store")
WORKPLACES: Final = _words("""
    医院 hospital, 学校 school, 饭店 restaurant, 农场 farm, 工厂 factory, 剧院 theatre
    银行 bank, 邮局 post office, 机场 airport, 图书馆 library""")
OUTINGS: Final = _words("公园 park, 动物园 zoo, 电影院 cinema, 博物馆 museum, 海边 beach, 森林 forest, 火车站 station, 体育馆 gym")
PLACES: Final = OUTINGS + WORKPLACES
JOBS: Final = _words(
    """
    医生/位 doctor, 老师/位 teacher, 厨师/位 chef, 农民/位 farmer, 工人/位 worker, 演员/位 actor, 会计/位 accountant, 邮递员/位 postman
    飞行员/位 pilot, 馆员/位 librarian""",
    bare=True,
)
DAYS: Final = _words("""
    星期一 Monday, 星期二 Tuesday, 星期三 Wednesday, 星期四 Thursday, 星期五 Friday, 星期六 Saturday, 星期日 Sunday""")
NUMBERS: Final = _words("""
    一 one, 二 two, 三 three, 四 four, 五 five, 六 six, 七 seven, 八 eight, 九 nine, 十 ten, 十一 eleven, 十二 twelve, 十三 thirteen
    十四 fourteen, 十五 fifteen, 十六 sixteen, 十七 seventeen, 十八 eighteen, 十九 nineteen, 二十 twenty""")
PARITY: Final = (Word(English("even"), Chinese("双数")), Word(English("odd"), Chinese("单数")))
ORDINALS: Final = _words("第一 first, 第二 second, 第三 third, 第四 fourth, 第五 fifth")

FOODS: Final = FRUIT + DISHES + VEGETABLES
GOODS: Final = FOODS + CLOTHES + TOOLS + FURNITURE
ITEMS: Final = ANIMALS + GOODS
OWNED: Final = ANIMALS + CLOTHES + TOOLS
COUNTABLE: Final = ANIMALS + FRUIT + CLOTHES + TOOLS

CATEGORIES: Final = (
    (Word(English("animal"), Chinese("动物")), ANIMALS),
    (Word(English("fruit"), Chinese("水果")), FRUIT),
    (Word(English("vegetable"), Chinese("蔬菜")), VEGETABLES),
    (Word(English("food"), Chinese("食物")), DISHES),
    (Word(English("clothing"), Chinese("衣服")), CLOTHES),
    (Word(English("tool"), Chinese("用品")), TOOLS),
    (Word(English("furniture"), Chinese("家具")), FURNITURE),
    (Word(English("vehicle"), Chinese("交通工具")), VEHICLES),
    (Word(English("colour"), Chinese("颜色")), COLOURS),
    (Word(English("job"), Chinese("职业")), JOBS),
)
LARGE_CATEGORIES: Final = tuple((name, members) for name, members in CATEGORIES if len(members) >= 8)
CATEGORY: Final = {word: category for category, members in CATEGORIES for word in members}
WORKPLACE: Final = dict(zip(JOBS, WORKPLACES, strict=True))

_OPPOSITES: Final = _words("""
    大 big, 小 small, 长 long, 短 short, 快 fast, 慢 slow, 冷 cold, 热 hot, 新 new, 旧 old, 远 far, 近 near, 早 early, 晚 late
    高 high, 低 low, 多 many, 少 few, 好 good, 坏 bad, 轻 light, 重 heavy, 开 open, 关 closed, 前 front, 后 back, 真 true, 假 false
    干净 clean, 肮脏 dirty, 简单 simple, 复杂 complex, 安全 safe, 危险 dangerous""")
OPPOSITE: Final = {
    word: other for left, right in zip(_OPPOSITES[::2], _OPPOSITES[1::2], strict=True) for word, other in ((left, right), (right, left))
}

TRANSLATED: Final = ANIMALS + FRUIT
MEASURED: Final = ITEMS + VEHICLES


def day_after(day: Word, days: int = 1) -> Word:
    """Returns the weekday `days` after `day` (before it, if negative)."""
    return DAYS[(DAYS.index(day) + days) % len(DAYS)]
