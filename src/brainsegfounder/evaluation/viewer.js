// The viewer of a page: reads what `viewer.py` wrote, unpacks NiiVue, and answers keys and buttons.
"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const box = $("viewer"), where = $("viewer-where");
  const say = (text) => { $("viewer-state").textContent = text; };
  try {
    const data = JSON.parse($("viewer-data").textContent);
    const canvas = $("viewer-canvas");
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("no WebGL 2");
    const bytes = Uint8Array.from(atob($("viewer-niivue").textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    box.hidden = false; // before the canvas is measured
    const nv = new niivue.Niivue({
      logLevel: "error", dragAndDropEnabled: false, scrollRequiresFocus: true, isNearestInterpolation: false,
      backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.55], fontColor: [1, 1, 1, 1], crosshairGap: 8, crosshairWidth: 0.5,
      isRadiologicalConvention: data.radiological, sagittalNoseLeft: true, multiplanarShowRender: 0,
      multiplanarPadPixels: 4, tileMargin: 10, showAllOrientationMarkers: true, dragMode: 0, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    });
    await nv.attachToCanvas(canvas, false);
    const load = async (nii, more) =>
      nv.addVolume(await niivue.NVImage.loadFromBase64({ base64: nii, name: "volume.nii.gz", ...more }));
    const channel = (at) => [0, ...data.colours.map((c) => parseInt(c.slice(at, at + 2), 16))];
    const colormapLabel = {
      R: channel(1), G: channel(3), B: channel(5), A: [0, ...data.colours.map(() => 255)],
      I: [0, ...data.colours.map((_, n) => n + 1)], labels: ["", ...data.names],
    };
    await load(data.scan, { colormap: "gray", cal_min: 0, cal_max: 255 });
    await load(data.labels, { opacity: 0.45 });
    nv.volumes[1].setColormapLabel(colormapLabel);
    if (data.map) {
      await load(data.map.nii, { colormap: data.map.colours, cal_min: data.map.from, cal_max: 255, opacity: 0 });
    }
    const goTo = (mm) => {
      nv.scene.crosshairPos = nv.mm2frac(mm);
      nv.createOnLocationChange();
      nv.drawScene();
    };
    const sides = [["R", "L"], ["A", "P"], ["S", "I"]];
    nv.onLocationChange = ({ mm, values }) => {
      const place = sides.map(([plus, minus], n) => `${Math.abs(mm[n]).toFixed(1)} mm ${mm[n] < 0 ? minus : plus}`);
      const found = values[1].value ? data.names[Math.round(values[1].value) - 1] : "no label";
      const map = data.map ? `; ${data.map.name} ${((values[2].value / 255) * data.map.top).toFixed(2)}` : "";
      where.textContent = `${place.join(", ")}: ${found}${map}`;
    };
    const showLabels = () => {
      const how = document.querySelector("[name=viewer-labels]:checked").value;
      const opacity = Number($("viewer-opacity").value) / 100;
      nv.opts.atlasOutline = how === "outlines" ? opacity : 0;
      nv.setOpacity(1, { hidden: 0, outlines: 0.01 }[how] ?? opacity);
    };
    document.querySelectorAll("[name=viewer-labels]").forEach((one) => { one.onchange = showLabels; });
    $("viewer-opacity").oninput = showLabels;
    $("viewer-sides").onchange = (event) => nv.setRadiologicalConvention(event.target.value === "radiological");
    $("viewer-start").onclick = () => goTo(data.start_mm);
    if (data.map) $("viewer-map").onchange = (event) => nv.setOpacity(2, event.target.checked ? data.map.opacity : 0);
    document.querySelectorAll("[data-mm]").forEach((button) => {
      button.hidden = false;
      button.onclick = () => {
        goTo(button.dataset.mm.split(" ").map(Number));
        box.scrollIntoView({ block: "nearest" });
        canvas.focus({ preventScroll: true });
      };
    });
    // On the capturing way down, so that NiiVue's own keys do nothing behind the reader's back.
    canvas.parentElement.addEventListener("keydown", (event) => {
      const right = nv.opts.isRadiologicalConvention ? -1 : 1, far = event.shiftKey ? 10 : 1;
      const step = {
        ArrowLeft: [-right, 0, 0], ArrowRight: [right, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
        PageUp: [0, 0, 1], PageDown: [0, 0, -1],
      }[event.key];
      event.stopPropagation();
      if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      nv.moveCrosshairInVox(...step.map((n) => n * far));
    }, true);
    showLabels();
    goTo(data.start_mm);
    $("viewer-fallback").hidden = true;
    box.dataset.state = "ready";
  } catch (error) {
    box.hidden = true;
    say(`The viewer cannot run here (${error.message}). The pictures above show the same labels.`);
  }
})();
