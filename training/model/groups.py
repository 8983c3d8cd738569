"""Blindness to groups: which nation, country of origin or faith a passage names is hidden before anything is extracted.

A label is about what is said, not about whom: swapping one nationality, country or religion for another must not sway
it. Names of the receiving countries and their own peoples (American, British, Canadian, Australian) stay, as do places.
"""

import hashlib
import re

NATIONS = """
Afghan Albanian Algerian Angolan Arab Argentine Armenian Austrian Azerbaijani Bangladeshi Belarusian Belgian
Bolivian Bosnian Brazilian Bulgarian Burmese Cambodian Cameroonian Chilean Chinese Colombian Congolese Croat
Croatian Cuban Czech Dane Danish Dominican Dutch Ecuadorian Egyptian Eritrean Estonian Ethiopian Filipina
Filipino Finn Finnish French Gambian Georgian German Ghanaian Greek Guatemalan Guinean Haitian Hispanic
Honduran Hungarian Indian Indonesian Iranian Iraqi Irish Israeli Italian Ivorian Jamaican Japanese Jordanian
Kazakh Kenyan Korean Kosovar Kurd Kurdish Kuwaiti Latina Latino Latvian Lebanese Liberian Libyan Lithuanian
Malaysian Malian Mexican Moldovan Mongolian Moroccan Nepalese Nepali Nicaraguan Nigerian Norwegian Pakistani
Palestinian Panamanian Peruvian Pole Polish Portuguese Rohingya Roma Romanian Russian Rwandan Salvadoran Saudi
Senegalese Serb Serbian Slovak Slovakian Slovenian Somali Somalian Spaniard Spanish Sudanese Swede Swedish
Swiss Syrian Taiwanese Tajik Tanzanian Thai Tibetan Tunisian Turk Turkish Ugandan Ukrainian Uruguayan Uzbek
Venezuelan Vietnamese Yemeni Zambian Zimbabwean
""".split()
# Not those whose names are also a state's or a person's: Chad, Georgia, Jordan. Receiving countries of the press in
# English stay: what is done there is news, not a group.
COUNTRIES = [
    *"""
Afghanistan Albania Algeria Angola Argentina Armenia Austria Azerbaijan Bangladesh Belarus Belgium Bolivia Bosnia
Brazil Bulgaria Burma Cambodia Cameroon Chile China Colombia Congo Croatia Cuba Denmark Ecuador Egypt Eritrea Estonia
Ethiopia Finland France Gambia Germany Ghana Guatemala Guinea Haiti Honduras Hungary India Indonesia Iran Iraq Israel
Italy Jamaica Japan Kazakhstan Kenya Kosovo Kuwait Latvia Lebanon Liberia Libya Lithuania Malaysia Mali Mexico Moldova
Mongolia Morocco Myanmar Nepal Netherlands Nicaragua Nigeria Norway Pakistan Panama Peru Philippines Poland Portugal
Romania Russia Rwanda Senegal Serbia Slovakia Slovenia Somalia Spain Sudan Sweden Switzerland Syria Taiwan Tajikistan
Tanzania Thailand Tibet Tunisia Turkey Uganda Ukraine Uruguay Uzbekistan Venezuela Vietnam Yemen Zambia Zimbabwe
""".split(),
    "Costa Rica", "Dominican Republic", "El Salvador", "Ivory Coast", "North Korea", "Saudi Arabia", "South Korea",
    "South Sudan", "Sri Lanka",
]  # fmt: skip
FAITHS = """
Buddhist Catholic Christian Evangelical Hindu Jew Jewish Mormon Muslim Protestant Sikh
""".split()
# Part of every feature's recipe.
DIGEST = hashlib.sha256(" ".join([*NATIONS, "|", *COUNTRIES, "|", *FAITHS]).encode()).hexdigest()[:8]


def _words() -> dict[str, str]:
    """What stands for each name of one word, in lower case, and for its plural."""
    hidden: dict[str, str] = {}
    for names, one, several in (
        (COUNTRIES, "that country", "that country"),
        (NATIONS, "foreign", "foreigners"),
        (FAITHS, "religious", "believers"),
    ):
        for name in names:
            hidden.setdefault(name.lower(), one)
            hidden.setdefault(f"{name.lower()}s", several)
    return hidden


_WORDS = _words()
_WORD = re.compile(r"\w+")
_LONG = re.compile(rf"\b(?:{'|'.join(name for name in COUNTRIES if ' ' in name)})s?\b", re.IGNORECASE)
_QUOTED = re.compile(r'\s*(?:"[^"]*"|“[^“”]*”)\s*')
_NEW = re.compile(r"\bnew $", re.IGNORECASE)  # New Mexico is none of them


def blind(text: str) -> str:
    """The text with "foreign" for a nation, "that country" for its land and "religious" for a faith.

    Plurals become "foreigners" and "believers".
    """
    return _WORD.sub(_hide, _LONG.sub("that country", text))


def unquoted(text: str) -> str:
    """A text that is one quotation from end to end, without its marks, which must not sway either; else as it is."""
    return text.strip()[1:-1] if _QUOTED.fullmatch(text) else text


def _hide(word: re.Match[str]) -> str:
    """A look-up a word is some ten times as fast as one pattern of all names."""
    hidden = _WORDS.get(word[0].lower())
    start = word.start()
    return word[0] if hidden is None or _NEW.search(word.string, max(0, start - 5), start) else hidden
