"""Studies of flush-to-zero: its effect on results (bits), on time (cost), and on the kernels' machine code (code).

`fpes compare-builds` runs these studies. Each returns plain data. A report shows them in a terminal, as a page, or as
JSON.
"""
