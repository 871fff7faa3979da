"""Makes tables with statistics, and a web page, from finished runs."""
