"""The page that `wcx app` serves: a photograph, a network, and why this class, but not those.

networks   an opened network, and those that the page's visitors have opened
answers    a question as the page asks it, its answer, and what makes the same: a command, Python, files
html       an answer as HTML (answer.html.j2)
page       the page: gradio, and nothing that computes
server     who may ask for what, and what is left behind: nothing
"""
