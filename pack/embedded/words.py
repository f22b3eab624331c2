"""Common English and code words, most frequent first: what the embedded vocabulary learns besides the sample's own text."""

from __future__ import annotations

from typing import Final

_WORDS: Final = (
    "the of and to a in is that for it as was with be by on not he his but at are this have from or had an they which one "
    "you were all her she there would their we him been has when who will no more if out so up said what its about than "
    "into them can only other time new some could these two may first then do any like my now over such our man me even "
    "most made after also did many before must through years where much your way well down should because each just those "
    "people how too little good very make world still see own work men day get here old both life between being under "
    "three know same last year another while us might great since against go right place used few house came use without "
    "around however small home found think part say school number thought does far went upon put give going head take off "
    "never always state during once both given next hand young enough public set point almost different end water fact "
    "example answer question problem solution result step steps total value values equal equals sum difference product "
    "add subtract multiply divide number numbers integer function return class import print list string true false none "
    "self def for while else elif try except lambda range len index key name type file path open read write line lines "
    "text word words letter letters sentence sentences paragraph story explain describe write create generate provide "
    "following given below above input output instruction response user assistant system message tool call calls "
    "arguments parameter parameters object array data table row rows column columns model train training test tests code "
    "program algorithm method variable loop condition python java script html select where order group count average mean "
    "maximum minimum large small short long high low left right top bottom black white red green blue color size weight "
    "length time minute minutes hour hours week month today tomorrow yesterday morning evening night money price cost "
    "dollar dollars percent buy sell pay earn spend save share company business market customer service product government "
    "country city town street road car bus train plane ship health food water energy power heat light sun moon earth air "
    "fire tree plant animal bird fish dog cat horse child children boy girl woman women mother father family friend friends "
    "student students teacher book books paper page pages pen letter music song art picture movie game play team win lose "
    "help please thank thanks hello sorry sure great important possible impossible necessary simple easy hard difficult "
    "better best worse worst start begin stop finish continue change keep leave arrive find lose learn teach understand "
    "remember forget believe feel want need love hate hope try ask tell speak talk listen hear look watch show build make "
    "break open close turn move walk run drive fly swim eat drink cook sleep live die grow science history mathematics "
    "geometry algebra theorem proof equation fraction ratio probability area volume angle triangle circle square "
    "information language knowledge research study university development environment technology computer internet "
    "software network security process method analysis application performance experience opportunity relationship "
    "communication education organization population temperature government international especially"
)
WORDS: Final = tuple(_WORDS.split())

ENDINGS: Final = ("s", "ed", "ing", "er", "ly", "ness", "tion", "able", "ment", "'s", "ful", "less", "ity", "ous", "al")
CODE: Final = (
    "def {0}({1}):\n    return {1}.{2}\n",
    "for {0} in range({1}):\n    print({0})\n",
    "if {0} == {1}:\n    {2} = []\nelse:\n    {2} = {{}}\n",
    "```python\nimport {0}\n```\n",
    '{{"name": "{0}", "arguments": {{"{1}": "{2}"}}}}\n',
    "- **{0}**: {1} {2}\n",
    "# {0}\n\n## {1}\n\n1. {2}\n",
    "<{0}>{1}</{0}>\n",
    "{0} \\times {1} = \\frac{{{2}}}{{{0}}}\n",
    "https://www.{0}.com/{1}/{2}.html\n",
)
