"""The page for people: look at what the shield does to a photograph, and try to fool the recogniser.

``actions`` does the work and knows no web library; ``text`` puts it into words; ``layout`` lays it out with
Gradio; ``run`` serves it alone.
"""
