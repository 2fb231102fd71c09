"""The page for people: look at what the shield makes of a photograph, and try to fool the recogniser.

``studio`` does the work and knows no web library; ``layout`` lays it out with Gradio; ``run`` serves it alone.
"""
