"""Compresses wheels once more, with zopfli, by some 3 %: python tools/shrink_wheels.py WHEEL..."""

import os
import sys
import zipfile

import zopfli  # of the package zopflipy


def shrink(wheel: str) -> None:
    with (
        zipfile.ZipFile(wheel) as old,
        zopfli.ZipFile(
            f"{wheel}.part",
            "w",
            block_splitting_max=0,  # as many blocks as pay
            iterations=60,
        ) as new,
    ):
        for item in old.infolist():
            new.writestr(item, old.read(item), zipfile.ZIP_DEFLATED)
    os.replace(f"{wheel}.part", wheel)


for path in sys.argv[1:]:
    shrink(path)
