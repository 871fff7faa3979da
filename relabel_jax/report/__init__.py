"""From finished runs to tables with their statistics and a page to look at."""
