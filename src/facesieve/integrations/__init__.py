"""The shield inside other libraries: scikit-learn, the Adversarial Robustness Toolbox, and pipelines of face crops.

Each is a separate module, since each needs a different library:

- ``facesieve.integrations.crops``: crops of InsightFace and of facenet-pytorch, and any others, NumPy or torch
- ``facesieve.integrations.scikit_learn``: a transformer
- ``facesieve.integrations.art``: preprocessors for the Adversarial Robustness Toolbox
"""
