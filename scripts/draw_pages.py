"""Draw pages of text and simple graphics, such as screens show, to train on beside photographs.

    python scripts/draw_pages.py data/train         # 96 PNG files, page_00.png ..., the same on every machine

A model that has seen photographs alone takes thin strokes for noise. Each page has one look: a font, colours, dark on
light or light on dark; and headings, paragraphs, links, program code, tables, buttons, lines and shapes. The fonts are
those that come with Pillow and matplotlib.
"""

import random
import signal
import string
import sys
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

import matplotlib
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import Parser, UserError, atomic_path, check_folder, run_main  # noqa: E402

PAGES, WIDTH, HEIGHT = 96, 800, 600
FONTS = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
NAMES = ('DejaVuSans', 'DejaVuSans-Bold', 'DejaVuSerif', 'DejaVuSansMono', 'STIXGeneral', None)  # None: Pillow's
LETTERS = 'eeeeeetttttaaaaoooonnnniiiisssrrrhhhllddccuummffppggwybvkxjqz'


def font(name, height):
    return ImageFont.truetype(str(FONTS / f'{name}.ttf'), height) if name else ImageFont.load_default(height)


def word(chance):
    """A made-up word, number or name, sometimes with punctuation."""
    kind = chance.random()
    if kind < 0.1:
        made = ''.join(chance.choices(string.digits + '.,:-/%', k=chance.randint(1, 6)))
    else:
        made = ''.join(chance.choices(LETTERS, k=chance.choice((1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10))))
        made = made.upper() if kind < 0.14 else made.capitalize() if kind < 0.3 else made
    return made + chance.choice(('',) * 12 + (',', '.', ';', '!', '?', ')', '"'))


def mixed(first, second, share):
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second))


class Page:
    """A page that is filled from top to bottom."""

    def __init__(self, seed):
        self.chance = chance = random.Random(seed)
        light, dark = ([chance.randint(low, low + 35) for _ in range(3)] for low in (220, 0))
        if chance.random() < 0.4:
            light = [255] * 3
        self.paper, self.ink = (light, dark) if chance.random() < 0.7 else (dark, light)
        self.accent = mixed([chance.randint(0, 255) for _ in range(3)], self.ink, 0.3)
        self.name, self.size = chance.choice(NAMES), chance.choice((14, 16, 20, 24, 28, 34, 42))
        self.image = Image.new('RGB', (WIDTH, HEIGHT), tuple(self.paper))
        self.draw, self.y = ImageDraw.Draw(self.image), chance.randint(4, 20)

    def fill(self):
        parts = (self.heading, self.paragraph, self.paragraph, self.paragraph, self.code, self.table, self.buttons)
        while self.y < HEIGHT:
            self.chance.choice((*parts, self.line, self.shapes))()
            self.y += self.chance.randint(self.size // 3, self.size)
        return self.image

    def words(self, x, text_font, ink, right=WIDTH - 20):
        """A line of words from `x` on."""
        while x < right:
            text = word(self.chance)
            colour = self.accent if self.chance.random() < 0.08 else ink
            self.draw.text((x, self.y), text, colour, text_font)
            if colour == self.accent:
                below = self.y + round(1.15 * text_font.size)
                self.draw.line((x, below, x + text_font.getlength(text), below), colour, max(1, self.size // 16))
            x += text_font.getlength(text + ' ')

    def heading(self):
        large = font(self.name, round(self.chance.uniform(1.4, 2.2) * self.size))
        self.words(20, large, self.accent, right=self.chance.randint(200, WIDTH))
        self.y += round(1.3 * large.size)

    def paragraph(self):
        text_font, ink = font(self.name, self.size), tuple(mixed(self.ink, self.paper, self.chance.choice((0, 0, 0.4))))
        for _ in range(self.chance.randint(1, 6)):
            self.words(20, text_font, ink)
            self.y += round(1.35 * self.size)

    def code(self):
        text_font = font('DejaVuSansMono', self.size)
        lines = self.chance.randint(2, 6)
        shade = tuple(mixed(self.paper, self.ink, 0.08))
        self.draw.rectangle((12, self.y, WIDTH - 12, self.y + round(1.3 * self.size * lines)), shade)
        for _ in range(lines):
            indent = 20 + text_font.getlength('    ') * self.chance.randint(0, 3)
            text = ''.join(self.chance.choices(string.ascii_lowercase + string.digits + '_()[]{}=+-*/.,: ', k=30))
            self.draw.text((indent, self.y), text, self.chance.choice((tuple(self.ink), self.accent)), text_font)
            self.y += round(1.3 * self.size)

    def table(self):
        text_font, columns, high = font(self.name, self.size), self.chance.randint(2, 6), round(1.6 * self.size)
        rule, wide = tuple(mixed(self.paper, self.ink, self.chance.uniform(0.2, 0.8))), self.chance.choice((1, 1, 2, 3))
        each = (WIDTH - 40) // columns
        for _ in range(self.chance.randint(2, 5)):
            for column in range(columns):
                x = 20 + column * each
                self.draw.rectangle((x, self.y, x + each, self.y + high), outline=rule, width=wide)
                self.draw.text((x + 6, self.y + self.size // 5), word(self.chance), tuple(self.ink), text_font)
            self.y += high

    def buttons(self):
        text_font, x, high = font(self.name, self.size), 20, 2 * self.size
        for _ in range(self.chance.randint(1, 4)):
            text = word(self.chance).capitalize()
            right = x + text_font.getlength(text) + 2 * self.size
            filled = self.chance.random() < 0.5
            box, round_by = (x, self.y, right, self.y + high), self.chance.choice((0, 3, 6, self.size))
            self.draw.rounded_rectangle(box, round_by, self.accent if filled else None, tuple(self.ink), 1 + filled)
            ink = self.paper if filled else self.ink
            self.draw.text((x + self.size, self.y + 0.4 * self.size), text, tuple(ink), text_font)
            x = right + self.size
        self.y += high

    def line(self):
        self.draw.line((20, self.y, WIDTH - 20, self.y), tuple(self.ink), self.chance.choice((1, 1, 2, 3)))

    def shapes(self):
        high = self.chance.randint(30, 120)
        for x in range(20, WIDTH - high, high + 20):
            box = (x, self.y, x + high, self.y + high)
            colour = tuple(self.chance.randint(0, 255) for _ in range(3))
            outline = {'fill': colour} if self.chance.random() < 0.5 else {'outline': colour, 'width': 2}
            self.chance.choice((self.draw.ellipse, self.draw.rectangle))(box, **outline)
        self.y += high


def parse():
    parser = Parser('Draw pages of text and graphics to train on.')
    parser.add_argument('folder', type=Path, help='where they go; a folder of training images')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    check_folder(args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    for number in range(PAGES):
        path = args.folder / f'page_{number:02}.png'
        if path.exists():
            raise UserError(f'{path} is there already')
        with atomic_path(path) as temporary:
            Page(number).fill().save(temporary)
    print(f'{PAGES} pages are in {args.folder}')


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
