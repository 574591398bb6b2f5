"""The report: what a backfill has brought, how complete it is and how the runs went, as one HTML file or as JSON.

    questions      the database, in one snapshot: aggregates only, nothing is streamed user by user
    coverage       months: which there are, and how many users are how well known in each (pure)
    data           what was found: what `--json` prints, and all that a page may show (pure)
    words          numbers, spans and caveats as people read them (pure)
    figures        where bars, lines and ticks lie, in percent (pure)
    page           data, words and figures through `page.html` and `style.css` (pure)
    place          a file that is there as a whole or not at all

What is not known is told as unknown, never drawn as zero. The page is complete in itself: no script, nothing is
fetched, and it forbids itself to try. Only `page` imports the template engine, which takes long to import.
"""
