"""The names, cities and words that questions are about. Short ones: a small vocabulary spells long ones in many pieces."""
from __future__ import annotations

NAMES: tuple[str, ...] = tuple(
    "Adam Alan Alice Amir Anna Ben Bob Boris Carl Cora David Diana Dora Emma Eric Eva Finn Frank Fred Gina Hans Ida Iris Ivan Jack Jan Jim Joe Kate "
    "Kim Lars Lena Leo Lisa Lucy Luca Maria Mark Mary Max Mia Mike Nina Noah Nora Omar Otto Paul Peter Rita Ron Rosa Ruth Sam Sara Simon Sven Tim "
    "Tina Tom Uma Vera Will Zoe".split())

CITIES: tuple[str, ...] = tuple(
    "Accra Athens Basel Berlin Bern Bonn Boston Cairo Dallas Delhi Denver Dublin Lagos Lima Lisbon London Lyon Madrid Miami Milan Nice Osaka Oslo "
    "Paris Perth Porto Prague Quito Riga Rome Seattle Seoul Sofia Tokyo Toronto Tunis Turin Vienna Warsaw Zurich".split())

WORDS: tuple[str, ...] = tuple(
    "apple ball bear big bird black blue boat book box bread bus car cat chair coat coin cold corn cup dog door ear eye fire fish foot "
    "game glass gold green hand hat hill horse hot house iron key king lake lamp leaf light lion map milk moon mouse night nose old paper "
    "pen plate queen rain red rice ring river road roof rose salt sand sea ship small snow song star stone sun table tea team train tree "
    "wall water white wind wolf wood".split())

THINGS: tuple[str, ...] = tuple(
    "apples bread coffee corn dogs fish games horses ice maps milk music rain rice ships snow songs stars tea trains trees water".split())
