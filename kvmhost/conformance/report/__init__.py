"""One run, told in the form that its reader needs: a person at a terminal, a page to send, or a CI system.

Every form is made from a `results.Run` alone (`as_text`, `as_json`, `as_junit`, `as_tap`, `as_html`), so any
of them can be made later from the JSON; `baseline` tells what changed since an earlier run, and `files` makes
sure before the run that everything can be written after it.
"""
