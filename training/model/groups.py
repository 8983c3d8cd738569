"""Blindness to groups: which nation or faith a passage names is hidden before anything is extracted from it.

A label is about what is said, not about whom: swapping one nationality or religion for another must not sway it. Names
of the receiving countries' own peoples (American, British, Canadian, Australian) stay, as do countries and places.
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
FAITHS = """
Buddhist Catholic Christian Evangelical Hindu Jew Jewish Mormon Muslim Protestant Sikh
""".split()
DIGEST = hashlib.sha256(" ".join([*NATIONS, "|", *FAITHS]).encode()).hexdigest()[:8]  # part of every feature's recipe


def _pattern(names: list[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(sorted(names, key=len, reverse=True))})(s?)\b", re.IGNORECASE)


_NATION, _FAITH = _pattern(NATIONS), _pattern(FAITHS)


def blind(text: str) -> str:
    """The text with "foreign" for a nation and "religious" for a faith; plurals become "foreigners" and "believers"."""
    text = _NATION.sub(lambda match: "foreigners" if match[1] else "foreign", text)
    return _FAITH.sub(lambda match: "believers" if match[1] else "religious", text)
