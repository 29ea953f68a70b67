"""The names, cities and words that questions are about. Short ones: a small vocabulary spells long ones in many pieces.

The words are such as program texts use, so a vocabulary learned from these has each as one piece, and how it is spelled must be learned."""
from __future__ import annotations

NAMES: tuple[str, ...] = tuple(
    "Adam Alan Alice Amir Anna Ben Bob Boris Carl Cora David Diana Dora Emma Eric Eva Finn Frank Fred Gina Hans Ida Iris Ivan Jack Jan Jim Joe Kate "
    "Kim Lars Lena Leo Lisa Lucy Luca Maria Mark Mary Max Mia Mike Nina Noah Nora Omar Otto Paul Peter Rita Ron Rosa Ruth Sam Sara Simon Sven Tim "
    "Tina Tom Uma Vera Will Zoe".split())

CITIES: tuple[str, ...] = tuple(
    "Accra Athens Basel Berlin Bern Bonn Boston Cairo Dallas Delhi Denver Dublin Lagos Lima Lisbon London Lyon Madrid Miami Milan Nice Osaka Oslo "
    "Paris Perth Porto Prague Quito Riga Rome Seattle Seoul Sofia Tokyo Toronto Tunis Turin Vienna Warsaw Zurich".split())

WORDS: tuple[str, ...] = tuple(
    "back base block body byte call case code color copy data date day end error event file form frame hand head help host key kind left "
    "level line list mail map menu name object order path point queue range right root row size stack start string table text thread time title "
    "tree user value".split())

THINGS: tuple[str, ...] = tuple(
    "apples bread coffee corn dogs fish games horses ice maps milk music rain rice ships snow songs stars tea trains trees water".split())
