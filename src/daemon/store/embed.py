"""Write a text file as a C string: embed.py INPUT OUTPUT NAME."""
import json
import sys

source, target, name = sys.argv[1:4]
with open(source, encoding="ascii") as file:
    lines = file.read().splitlines(keepends=True)
with open(target, "w", encoding="ascii") as file:
    file.write(f"static const char {name}[] =\n")
    file.writelines(f"\t{json.dumps(line)}\n" for line in lines)
    file.write("\t;\n")
