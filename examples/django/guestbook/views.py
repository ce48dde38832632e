from django.forms import ModelForm
from django.http import HttpResponse
from django.shortcuts import redirect, render

from .models import Entry


class EntryForm(ModelForm):
    class Meta:
        model = Entry
        fields = ["name", "text"]


def index(request):
    form = EntryForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        return redirect("/")
    return render(request, "index.html", {"form": form, "entries": Entry.objects.all()})


def count(request):
    return HttpResponse(f"{Entry.objects.count()}\n", content_type="text/plain")
