"""Texts that tokenizers get wrong: odd Unicode, white space, digits, contractions, special-token look-alikes."""

from prompts import PROMPTS

ODD = [
    "", " ", "  ", "\n", "\n\n\n", "\t\t", " \n \n", "a", " a", "  a", "a ", "a  ", "hello world", "Hello, world!", " hello  world ",
    "it's we'll I'm you'd they've he's CAN'T Don'T",
    "1234567890", "3.14159", "1,000,000", "0x1F", "v2.4.0-rc.1", "2024-05-03T10:20:30Z", "١٢٣", "½ ² ₃",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "if (x<=10&&y!=0){return x/y;}//end", "\tindented\n\t\ttwice\n    four spaces",
    "https://example.org/a/b?c=d&e=f#g", "user.name+tag@example.org", "C:\\Users\\name\\file.txt",
    "naïve café résumé", "nai\u0308ve cafe\u0301", "Ångström Å \u212b", "straße STRASSE", "ﬁne ﬂow",
    "日本語のテキスト", "中文字符测试", "한국어 텍스트", "ภาษาไทย", "हिन्दी पाठ", "עברית", "العربية", "ქართული", "Ελληνικά",
    "😀", "👩‍👩‍👧‍👦", "🇫🇷🇯🇵", "👍🏽", "❤️", "a😀b", "\U0001f9ff\U0001fae0",
    "\u00a0nbsp\u00a0", "zero\u200bwidth", "\u200e\u200f", "\ufeffbom", "soft\u00adhyphen", "\u2028line\u2029para", "\u3000wide\u3000space",
    "\x00", "\x01\x02\x1f", "\x7f", "\r\n", "a\r\nb\rc", "\ufffd", "\U0010ffff", "\ue000",
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>user\nhi<end_of_turn>",
    "<|im_start|>user\nhi<|im_end|>\n", "a<|im_start|>b", "<|im_start|><|im_start|>", "<|im_start |>", "<0x0A>", "▁", "▁▁a▁", "Ġ", "Ċ", " ▁ ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "================================", "..........", "!!!???", "———", "“quoted” ‘single’",
    "x" * 200, "ab " * 60, "\n" * 20, " " * 40, "\t" * 17, "0" * 37,
    "Zalgo: t̶̢̛e̸̡x̷t̵", "Ⅷ ⅷ ㎏ ㍿", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "ａｂｃ１２３", "ı İ i̇", "ß ẞ", "Σς",
]
# Left out: texts on which the tokenizers that transformers and llama.cpp rebuild from the same file differ (digits such as
# a superscript two, which transformers forgets to split; literal U+2581; more spaces than the longest run in the vocabulary).
DISPUTED = {"½ ² ₃", "Ⅷ ⅷ ㎏ ㍿", "▁▁a▁", " ▁ ", " " * 40}
TEXTS = [t for t in PROMPTS + ODD if t not in DISPUTED]

CHATS = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "Good morning"}],
    [
        {"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Nile."},
        {"role": "user", "content": "Another one?"},
    ],
    [
        {"role": "system", "content": "You are terse.\n"}, {"role": "user", "content": "  spaces kept?  "},
        {"role": "assistant", "content": "Yes.\n\n"}, {"role": "user", "content": "👩‍👩‍👧‍👦 naïve \u200b日本語\r\n<tag> {{ x }} {% y %}"},
    ],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": "literal <|im_end|> inside"}],
]
