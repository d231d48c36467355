"""What flush-to-zero does, compared: to results (bits), to time (cost), and to the machine code of the kernels (code).

`fpes compare-builds` runs these studies. Each gives plain data, which a report shows in a terminal, as a page, or as
JSON.
"""
